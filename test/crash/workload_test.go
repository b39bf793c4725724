package crash_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"consultd/handlers"
	"consultd/handlers/pubnub"
	"consultd/test/clinic"
)

func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked { // these tests wait for leases and timers most of the time
		_ = flag.Set("test.parallel", "8")
	}
	code := m.Run()
	clinic.RemoveBinary()
	os.Exit(code)
}

// briefly is a clinic where everything times out while one looks on, and where the on-call list is asked for over HTTP.
func briefly(t *testing.T, o clinic.Options) *clinic.Clinic {
	t.Helper()
	rota := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"providers":[{"id":"dr-chen"},{"id":"dr-silva"}]}`)
	}))
	t.Cleanup(rota.Close)
	if o.PubNub.BufferSize == 0 {
		o.PubNub.BufferSize = 10_000 // TestP18 is about what overflows
	}
	o.Extra += fmt.Sprintf(`
timing:
  readiness: 300ms
  long_wait: [500ms, 900ms]
  wait_limit: 1500ms
  connect_soft: 200ms
  connect_hard: 500ms
  wrap_up_soft: 200ms
  wrap_up_hard: 600ms
escalation:
  on_call: {cardiology: [dr-chen], neurology: [dr-silva]}
  source: {url: %q}
  failsafe: [supervisor-1]
  transports: [sms, voice]
  default_department: cardiology
  re_page: {urgent: 4s, critical: 3s, life-threatening: 2500ms}
`, rota.URL+"/api/on-call/{departmentId}")
	return clinic.Start(t, o)
}

// slowly is a clinic where no timer interferes.
func slowly(t *testing.T, o clinic.Options) *clinic.Clinic {
	t.Helper()
	o.Extra += "escalation: {on_call: {cardiology: [dr-chen, dr-silva]}, failsafe: [supervisor-1], transports: [sms], default_department: cardiology," +
		" re_page: {urgent: 1h, critical: 1h, life-threatening: 1h}}\n"
	return clinic.Start(t, o)
}

// people are the patients, providers and others who keep a clinic busy. They wait for nobody.
type people struct {
	t       *testing.T
	c       *clinic.Clinic
	backend *clinic.Backend
	ring    *pubnub.KeyRing
	visits  atomic.Int64
	raised  atomic.Int64
}

func arrive(t *testing.T, c *clinic.Clinic) *people {
	t.Helper()
	ring, err := pubnub.NewKeyRing(clinic.CipherKey)
	if err != nil {
		t.Fatal(err)
	}
	return &people{t: t, c: c, backend: c.Backend(), ring: ring}
}

// voice is a way into the log.
type voice func(actor, channel string, body clinic.M)

func (p *people) nats(actor, channel string, body clinic.M) { p.backend.Say(actor, channel, body) }

// pubnub puts a message into the service as an app's SDK would publish it.
func (p *people) pubnub(actor, channel string, body clinic.M) {
	p.t.Helper()
	_, user, _ := strings.Cut(actor, ":")
	if _, ok := body["timestamp"]; !ok {
		body["timestamp"] = time.Now().UTC().Format(time.RFC3339Nano)
	}
	plain, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	sealed, err := p.ring.Encrypt(plain)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.c.PubNub.Publish(channel, user, json.RawMessage(sealed)); err != nil {
		p.t.Fatal(err)
	}
}

// visit is one patient's appointment with one provider.
type visit struct {
	p                                               *people
	say                                             voice
	appointment, patient, provider, room, consulted string
}

// newVisit makes an appointment. There are five providers, so that waiting rooms are shared.
func (p *people) newVisit(say voice) visit {
	n := p.visits.Add(1)
	v := visit{p: p, say: say, appointment: fmt.Sprintf("apt-%d", n), patient: fmt.Sprintf("pat-%d", n), provider: fmt.Sprintf("dr-%d", n%5)}
	v.room, v.consulted = handlers.WaitingRoom(v.provider), handlers.Consultation(v.provider, v.patient)
	return v
}

func (v visit) asPatient(channel, action string, more clinic.M) {
	v.as("patient:"+v.patient, channel, action, more)
}

func (v visit) asProvider(channel, action string, more clinic.M) {
	v.as("provider:"+v.provider, channel, action, more)
}

func (v visit) as(actor, channel, action string, more clinic.M) {
	body := clinic.M{"action": action}
	for k, value := range more {
		body[k] = value
	}
	v.say(actor, channel, body)
}

func (v visit) checkIn() {
	v.asPatient(v.room, "PATIENT_CHECKED_IN", clinic.M{
		"appointmentId": v.appointment, "patientId": v.patient,
		"consultationId": v.consulted, "departmentId": "cardiology",
	})
}

func (v visit) ready() {
	v.asPatient(v.room, "PATIENT_READY_CONFIRMED", clinic.M{"appointmentId": v.appointment, "deviceReady": true})
}

func (v visit) meet() {
	v.asProvider(v.consulted, "PROVIDER_JOINED", clinic.M{"providerId": v.provider})
	v.asPatient(v.consulted, "PATIENT_JOINED", clinic.M{"patientId": v.patient})
}

func (v visit) end() {
	v.asProvider(v.consulted, "CONSULTATION_ENDED", clinic.M{"providerId": v.provider, "summary": clinic.M{"duration": 9, "followUpRequired": false}})
}

func (v visit) notes() {
	v.asProvider(v.consulted, "NOTES_COMPLETED", clinic.M{"providerId": v.provider})
}

func (v visit) emergency() {
	v.asPatient(v.consulted, "EMERGENCY_REQUESTED", clinic.M{"severity": "critical", "reasonCode": "chest-pain"})
}

// whole is a visit from check-in to its notes.
func (v visit) whole() {
	v.checkIn()
	v.ready()
	v.meet()
	v.end()
	v.notes()
}

// raise raises an emergency in a department, and returns its id.
func (p *people) raise(say voice, department string) string {
	id := fmt.Sprintf("esc-%d", p.raised.Add(1))
	say("nurse:nurse-lee", handlers.Emergency(department), clinic.M{
		"action": "EMERGENCY_ESCALATION", "id": id,
		"escalatedBy": "nurse-lee", "severity": "life-threatening", "reasonCode": "collapse",
	})
	return id
}

// bustle is a bit of everything over both brokers: visits of all lengths, emergencies, mistakes.
func (p *people) bustle() {
	p.t.Helper()
	for _, say := range []voice{p.nats, p.pubnub} {
		p.newVisit(say).whole()
		p.raise(say, "cardiology")
		forgetful := p.newVisit(say) // never gets the camera to work, and leaves in the end
		forgetful.checkIn()
		alone := p.newVisit(say) // meets nobody
		alone.checkIn()
		alone.ready()
		alone.asProvider(alone.consulted, "PROVIDER_JOINED", clinic.M{"providerId": alone.provider})
		unwell := p.newVisit(say)
		unwell.checkIn()
		unwell.ready()
		unwell.meet()
		unwell.emergency()
		unwell.end() // notes never come
		stranger := p.newVisit(say)
		stranger.notes()
		stranger.asProvider(stranger.room, "PATIENT_CHECKED_IN", clinic.M{"nonsense": true})
	}
	p.backend.SayRaw("patient:pat-1", "waiting-room.dr-1", []byte(`{"action":`))
	again := clinic.M{"action": "PATIENT_READY_CONFIRMED", "appointmentId": "apt-1", "deviceReady": true, "id": "said-twice"}
	p.nats("patient:pat-1", "waiting-room.dr-1", again)
	p.nats("patient:pat-1", "waiting-room.dr-1", again)
}

// metric reads one figure of a running daemon's operations page, the sum over its labels that hold all the given words.
func metric(t *testing.T, opsURL, name string, words ...string) float64 {
	t.Helper()
	resp, err := http.Get(opsURL + "/metrics") //nolint:gosec,noctx // the test's own daemon
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
lines:
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, name+"{") && !strings.HasPrefix(line, name+" ") {
			continue
		}
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		var value float64
		fields := strings.Fields(line)
		if _, err := fmt.Sscan(fields[len(fields)-1], &value); err == nil {
			sum += value
		}
	}
	return sum
}

// ended waits until a process is gone.
func ended(t *testing.T, c *clinic.Clinic, p *clinic.Process) {
	t.Helper()
	c.Eventually("the end of consultd", func() (bool, string) {
		select {
		case <-p.Ended():
			return true, ""
		default:
			return false, p.Log.Tail(3)
		}
	})
}
