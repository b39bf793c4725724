package handlers

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"consultd/states"
)

var update = flag.Bool("update", false, "write the golden files anew")

// clinic decides what is said to it, one record at a time, the way the daemon does.
type clinic struct {
	t       testing.TB
	codec   *Codec
	rules   *states.Rules
	records map[states.RecordID]states.Record
	pairs   map[string]string
	armed   map[states.TimerKind]states.TimerID
	now     time.Time
	count   int
	said    []said
}

// said is one message with the sink it goes to.
type said struct {
	sink states.Sink
	states.Message
}

func newClinic(t testing.TB, codec *Codec) *clinic {
	rules := states.DefaultRules()
	rules.Organization = "clinic-north"
	rules.Timing.ConnectHard = 2 * time.Minute
	rules.Paging.OnCall = map[string][]string{"cardiology": {"dr-jones", "dr-lee"}}
	rules.Paging.Failsafe = []string{"chief"}
	rules.Paging.Transports = []string{"sms"}
	return &clinic{
		t: t, codec: codec, rules: &rules, records: map[states.RecordID]states.Record{}, pairs: map[string]string{},
		armed: map[states.TimerKind]states.TimerID{}, now: storedAt,
	}
}

// hear decodes an entry, decides and encodes, and returns the decision. What goes into the log is heard as well.
func (c *clinic) hear(e states.Entry) states.Decision {
	c.t.Helper()
	c.count++
	e.Seq, e.At = uint64(c.count), c.now
	ev, err := c.codec.Decode(e)
	if err != nil {
		c.t.Fatalf("%s %s: %v", e.Subject, e.Data, err)
	}
	ev.At = c.now
	c.codec.ResolveRole(c.rules, &ev)
	id := states.RecordID{Kind: states.KindVisit, ID: ev.Appointment}
	switch {
	case ev.Kind == states.TimerFired:
		id = ev.Timer.Record
	case ev.Escalation != "":
		id = states.EscalationRecord(ev.Department, ev.Escalation)
	}
	record := c.records[id]
	record.ID = id
	d, err := states.Decide(c.rules, record, ev, states.Facts{PairHolder: c.pairs[ev.Consultation]})
	if err != nil {
		c.t.Fatalf("%s: %v", ev.Kind, err)
	}
	out, err := c.codec.Encode(c.rules, ev, &d)
	if err != nil {
		c.t.Fatalf("%s: %v", ev.Kind, err)
	}
	c.records[id] = d.Record
	for _, change := range d.Timers {
		if !change.Due.IsZero() {
			c.armed[change.ID.Kind] = change.ID
		}
	}
	if d.Pair != nil {
		c.pairs[Consultation(d.Pair.Provider, d.Pair.Patient)] = d.Pair.Appointment
		if d.Pair.Clear {
			delete(c.pairs, Consultation(d.Pair.Provider, d.Pair.Patient))
		}
	}
	for _, sink := range states.Sinks() {
		for _, m := range out[sink] {
			c.said = append(c.said, said{sink, m})
			if subject, intoLog := MessageSubject(m.Channel); intoLog {
				c.hear(c.raised(subject, m))
			}
		}
	}
	return d
}

// raised is the entry that the publisher makes of a message for the log.
func (c *clinic) raised(subject string, m states.Message) states.Entry {
	c.t.Helper()
	var envelope struct {
		Actor, Role string
		Body        json.RawMessage
	}
	decodeInto(c.t, m.Payload, &envelope)
	return states.Entry{
		Lane: LaneOf(subject), Subject: subject, Data: envelope.Body,
		Header: map[string]string{HeaderMsgID: m.ID, HeaderSource: "consultd", HeaderActor: envelope.Actor, HeaderRole: envelope.Role},
	}
}

// say publishes a message of an app, a minute after the one before.
func (c *clinic) say(user, channel, body string) states.Decision {
	c.t.Helper()
	c.now = c.now.Add(time.Minute)
	stamp := c.now.Format(time.RFC3339)
	e := app(InSubject(channel), user, fmt.Sprintf(`{"timestamp":"%s",%s`, stamp, body[1:]))
	d := c.hear(withHeader(e, HeaderTimetoken, fmt.Sprint(c.now.UnixNano()/100)))
	if d.Refusal != nil {
		c.t.Fatalf("%s by %s: %+v", body, user, *d.Refusal)
	}
	return d
}

// book is what the backend says.
func (c *clinic) book(channel, body string) {
	c.t.Helper()
	c.now = c.now.Add(time.Minute)
	e := backend(InSubject(channel), fmt.Sprintf(`{"id":"b%d","timestamp":"%s",%s`, c.count, c.now.Format(time.RFC3339), body[1:]))
	if d := c.hear(e); d.Refusal != nil {
		c.t.Fatalf("%s: %+v", body, *d.Refusal)
	}
}

// fire lets the last timer of a kind become due.
func (c *clinic) fire(kind states.TimerKind) {
	c.t.Helper()
	c.now = c.now.Add(time.Minute)
	id := c.armed[kind]
	lane := states.LaneNormal
	if id.Record.Kind == states.KindEscalation {
		lane = states.LaneEmergency
	}
	d := c.hear(states.Entry{Lane: lane, Subject: c.codec.TimerSubject(lane, id.Key), Data: c.codec.TimerData(id)})
	if d.Refusal != nil {
		c.t.Fatalf("timer %s: %+v", kind, *d.Refusal)
	}
}

const (
	room  = "waiting-room.dr-smith"
	visit = "consultation.dr-smith.pat-1"
	desk  = "emergency.cardiology"
)

func (c *clinic) checkIn(appointment string) {
	c.t.Helper()
	c.say("pat-1", room, `{"action":"PATIENT_CHECKED_IN","appointmentId":"`+appointment+`","patientId":"pat-1","consultationId":"`+visit+`","departmentId":"cardiology"}`)
}

// inVisit names the appointment, so that no pair has to be looked up.
func (c *clinic) inVisit(user, action, appointment, more string) {
	c.t.Helper()
	c.say(user, visit, `{"action":"`+action+`","appointmentId":"`+appointment+`"`+more+`}`)
}

func (c *clinic) join(appointment string) {
	c.t.Helper()
	c.inVisit("dr-smith", "PROVIDER_JOINED", appointment, `,"providerId":"dr-smith"`)
	c.inVisit("pat-1", "PATIENT_JOINED", appointment, `,"patientId":"pat-1"`)
}

func (c *clinic) fullVisit() {
	c.t.Helper()
	c.book(room, `{"action":"APPOINTMENT_SCHEDULED","appointmentId":"apt-1","patientId":"pat-1","providerId":"dr-smith","departmentId":"cardiology","startsAt":"2026-03-02T09:10:00Z"}`)
	c.say("pat-1", room, `{"action":"PATIENT_CHECKED_IN","appointmentId":"apt-1","patientId":"pat-1","consultationId":"`+visit+`"}`)
	c.say("pat-1", room, `{"action":"PATIENT_READY_CONFIRMED","appointmentId":"apt-1","patientId":"pat-1","deviceReady":true}`)
	c.join("apt-1")
	c.inVisit("dr-smith", "CONSULTATION_ENDED", "apt-1", `,"providerId":"dr-smith","summary":{"duration":14,"followUpRequired":false}`)
	c.inVisit("dr-smith", "NOTES_COMPLETED", "apt-1", `,"providerId":"dr-smith"`)
}

// everything says and lets happen whatever makes the daemon speak.
func (c *clinic) everything() {
	c.t.Helper()
	c.fullVisit()

	c.checkIn("apt-2")
	c.fire(states.TimerReadiness)
	c.fire(states.TimerLongWait)
	c.fire(states.TimerLongWait)
	c.say("dr-smith", room, `{"action":"PROVIDER_RUNNING_LATE","appointmentId":"apt-2","delayMinutes":10}`)
	c.say("dr-smith", room, `{"action":"PRIORITY_CHANGED","appointmentId":"apt-2","priority":"urgent"}`)
	c.inVisit("dr-smith", "PROVIDER_JOINED", "apt-2", `,"providerId":"dr-smith"`)
	c.fire(states.TimerConnectSoft)
	c.fire(states.TimerConnectHard)
	c.join("apt-2")
	c.inVisit("dr-smith", "CONSULTATION_HELD", "apt-2", `,"providerId":"dr-smith"`)
	c.inVisit("dr-smith", "CONSULTATION_RESUMED", "apt-2", `,"providerId":"dr-smith"`)
	c.inVisit("dr-smith", "PROVIDER_LEFT", "apt-2", `,"providerId":"dr-smith"`)
	c.fire(states.TimerProviderDrop)
	c.inVisit("dr-smith", "CONSULTATION_ENDED", "apt-2", `,"providerId":"dr-smith","summary":{"duration":1,"followUpRequired":true}`)
	c.fire(states.TimerWrapUpSoft)
	c.fire(states.TimerWrapUpHard)

	c.checkIn("apt-3")
	c.say("pat-1", room, `{"action":"PATIENT_LEFT","appointmentId":"apt-3","patientId":"pat-1"}`)
	c.checkIn("apt-4")
	c.say("pat-1", room, `{"action":"APPOINTMENT_CANCELLED","appointmentId":"apt-4","patientId":"pat-1"}`)
	c.checkIn("apt-5")
	c.say("dr-smith", room, `{"action":"APPOINTMENT_RESCHEDULED","appointmentId":"apt-5","startsAt":"2026-03-09T09:10:00Z"}`)
	c.book(room, `{"action":"APPOINTMENT_SCHEDULED","appointmentId":"apt-6","patientId":"pat-1","providerId":"dr-smith","departmentId":"cardiology","startsAt":"2026-03-02T11:10:00Z"}`)
	c.fire(states.TimerNoShow)

	c.checkIn("apt-7")
	c.inVisit("pat-1", "EMERGENCY_REQUESTED", "apt-7", `,"severity":"urgent","reasonCode":"chest-pain","reason":"`+phi+`"`)
	c.say("dr-smith", desk, `{"id":"esc-1","action":"EMERGENCY_ESCALATION","escalatedBy":"dr-smith","severity":"urgent","reason":"`+phi+`"}`)
	c.answer("dr-jones", "EMERGENCY_REJECTED", "esc-1", "")
	c.fire(states.TimerRePage)
	c.answer("dr-lee", "EMERGENCY_SEVERITY_CHANGED", "esc-1", `,"severity":"life-threatening"`)
	c.answer("dr-lee", "EMERGENCY_ACCEPTED", "esc-1", "")
	c.answer("dr-lee", "EMERGENCY_ATTENDED", "esc-1", "")
	c.answer("dr-lee", "EMERGENCY_RESOLVED", "esc-1", `,"outcomeCode":"transferred"`)
	c.say("dr-smith", desk, `{"id":"esc-2","action":"EMERGENCY_ESCALATION","escalatedBy":"dr-smith","severity":"critical"}`)
	c.answer("dr-lee", "EMERGENCY_CANCELLED", "esc-2", `,"reasonCode":"false-alarm"`)

	c.rules.Paging.Ask = true
	c.say("dr-smith", desk, `{"id":"esc-3","action":"EMERGENCY_ESCALATION","escalatedBy":"dr-smith","severity":"critical"}`)
	data, err := c.codec.OnCallData("esc-3", "cardiology", states.OnCallAnswer{Users: []string{"dr-who"}, Origin: "http"})
	if err != nil {
		c.t.Fatal(err)
	}
	c.now = c.now.Add(time.Second)
	c.hear(states.Entry{Lane: states.LaneEmergency, Subject: OnCallSubject("cardiology"), Data: data})
}

func (c *clinic) answer(user, action, escalation, more string) {
	c.t.Helper()
	c.say(user, desk, `{"action":"`+action+`","escalationId":"`+escalation+`","userId":"`+user+`"`+more+`}`)
}

// phi is what must never be seen outside.
const phi = "Quagga Zebra, unconscious"

// schemas compiles every schema of what the daemon says, by its folder and name.
func outboundSchemas(t testing.TB) map[string]*jsonschema.Schema {
	t.Helper()
	compile, err := compiler()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*jsonschema.Schema{}
	for _, folder := range []string{"outbound/notification", "outbound/queue", "outbound/consultation", "outbound/emergency", "outbound/page", "outbound/operations", "internal"} {
		schemas, err := compileFolder(compile, "schema/"+folder)
		if err != nil {
			t.Fatal(err)
		}
		for name, schema := range schemas {
			all[folder+"/"+name] = schema
		}
	}
	return all
}

// schemaOf is the schema that a message must fit.
func schemaOf(t testing.TB, m said) string {
	t.Helper()
	var head struct{ Type, Action string }
	decodeInto(t, m.Payload, &head)
	switch {
	case m.sink == states.SinkAudit:
		return "outbound/operations/audit-entries"
	case m.sink == states.SinkAsk:
		return "internal/ask"
	case strings.HasPrefix(m.Channel, markLog):
		return "internal/raise"
	case strings.HasPrefix(m.Channel, markDead):
		return "outbound/operations/dead-letter"
	}
	ch, err := ParseChannel(m.Channel)
	if err != nil {
		t.Fatalf("%s: %v", m.Channel, err)
	}
	return "outbound/" + string(ch.Class) + "/" + head.Type + head.Action
}

func TestEverythingSaidFitsItsSchema(t *testing.T) {
	c, schemas := newClinic(t, newCodec(t)), outboundSchemas(t)
	c.everything()
	used := map[string]bool{"outbound/operations/dead-letter": true, "internal/timer": true, "internal/on-call": true}
	seen := map[string][]byte{}
	for _, m := range c.said {
		name := schemaOf(t, m)
		used[name] = true
		schema := schemas[name]
		if schema == nil {
			t.Fatalf("%s has no schema", name)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(m.Payload))
		if err != nil {
			t.Fatalf("%s: %v in %s", name, err, m.Payload)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s: %v\n%s", name, err, m.Payload)
		}
		object := value.(map[string]any)
		for _, reserved := range []string{"message", "file"} {
			if _, ok := object[reserved]; ok {
				t.Errorf("%s has the reserved field %s", name, reserved)
			}
		}
		if id, ok := object["id"]; ok && !strings.HasPrefix(name, "internal/") && id != m.ID {
			t.Errorf("%s: id %v in the message, %s beside it", name, id, m.ID)
		}
		if bytes.Contains(m.Payload, []byte("Quagga")) || bytes.Contains(m.Payload, []byte("redacted")) {
			t.Errorf("%s repeats free text: %s", name, m.Payload)
		}
		if m.sink == states.SinkNATS || m.sink == states.SinkPubNub {
			if before, twice := seen[m.ID]; twice && !bytes.Equal(before, m.Payload) {
				t.Errorf("%s differs between the brokers", m.ID)
			}
			seen[m.ID] = m.Payload
		}
	}
	for name := range schemas {
		if !used[name] {
			t.Errorf("nothing that fits %s was said", name)
		}
	}
}

func TestEveryTypeThatCanBeSaidHasTextAndSchema(t *testing.T) {
	codec, schemas := newCodec(t), outboundSchemas(t)
	for name, value := range constants(t, "../states/decision.go", "Notice") {
		switch value {
		case states.NoticeNormal, states.NoticeHigh, states.NoticeCritical:
			continue
		}
		if text := codec.texts[value]; text.title == "" || text.body == "" {
			t.Errorf("states.%s has no text", name)
		}
		if schemas["outbound/notification/"+value] == nil {
			t.Errorf("states.%s has no schema", name)
		}
	}
	for name, value := range constants(t, "../states/decision.go", "Action") {
		found := name == "ActionRaise"
		for _, folder := range []string{"queue", "consultation", "emergency"} {
			found = found || schemas["outbound/"+folder+"/"+value] != nil
		}
		if !found {
			t.Errorf("states.%s has no schema", name)
		}
	}
}

func TestEffectsGoWhereTheyBelong(t *testing.T) {
	c := newClinic(t, newCodec(t))
	c.everything()
	byID := map[string][]said{}
	for _, m := range c.said {
		byID[m.ID] = append(byID[m.ID], m)
		page := strings.HasPrefix(m.Channel, "page.") || strings.Contains(string(m.Payload), `"type":"EMERGENCY_ESCALATION"`) && strings.HasPrefix(m.Channel, "notification.")
		if (m.Escalation != "") != page {
			t.Errorf("%s is bound to escalation %q: %s", m.Channel, m.Escalation, m.Payload)
		}
	}
	for id, ms := range byID {
		var sinks []states.Sink
		for _, m := range ms {
			sinks = append(sinks, m.sink)
		}
		want := []states.Sink{states.SinkNATS, states.SinkPubNub}
		switch {
		case strings.HasPrefix(ms[0].Channel, "page."), strings.HasPrefix(ms[0].Channel, markLog):
			want = want[:1]
		case ms[0].sink == states.SinkAudit || ms[0].sink == states.SinkAsk:
			want = []states.Sink{ms[0].sink}
		}
		if !slices.Equal(sinks, want) {
			t.Errorf("%s on %s goes to %v, want %v", id, ms[0].Channel, sinks, want)
		}
	}
}

func TestWhoHasTakenAnEscalationIsStillToldAboutIt(t *testing.T) {
	c := newClinic(t, newCodec(t))
	c.say("dr-smith", desk, `{"id":"esc-1","action":"EMERGENCY_ESCALATION","escalatedBy":"dr-smith","severity":"urgent"}`)
	c.answer("dr-lee", "EMERGENCY_ACCEPTED", "esc-1", "")
	before := len(c.said)
	c.answer("dr-lee", "EMERGENCY_SEVERITY_CHANGED", "esc-1", `,"severity":"life-threatening"`)
	told := 0
	for _, m := range c.said[before:] {
		if m.Channel == Notification("dr-lee") {
			told++
		}
		if m.Escalation != "" { // whoever sends it would drop it, because the escalation is answered
			t.Errorf("%s is bound to the escalation: %s", m.Channel, m.Payload)
		}
	}
	if told != 2 {
		t.Errorf("told %d times, want once per broker", told)
	}
}

func TestFullVisitReadsLikeThis(t *testing.T) {
	c := newClinic(t, newCodec(t))
	c.fullVisit()
	var got bytes.Buffer
	for _, m := range c.said {
		if m.sink == states.SinkNATS { // PubNub has the same bytes
			fmt.Fprintf(&got, "%s\n%s\n", m.Channel, m.Payload)
		}
	}
	const golden = "testdata/visit.golden"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the visit reads differently; see the difference with go test -update and git diff\n%s", got.Bytes())
	}
}

func TestEncodeIsTheSameEveryTime(t *testing.T) {
	first, second := newClinic(t, newCodec(t)), newClinic(t, newCodec(t))
	first.everything()
	second.everything()
	if a, b := asJSON(t, first.said), asJSON(t, second.said); a != b {
		t.Error("the same events are told differently the second time")
	}
	for i, m := range first.said {
		if m.sink != second.said[i].sink {
			t.Errorf("message %d goes to %s, then to %s", i, m.sink, second.said[i].sink)
		}
	}
}

// inCardiology finds every visit there.
func inCardiology(states.Event) (appointment, department string) { return "apt-1", "cardiology" }

func TestShortWayOfAnEmergencyMeetsTheLongOne(t *testing.T) {
	codec := newCodec(t)
	for _, user := range []string{"pat-1", "someone@example.org"} {
		c := newClinic(t, codec)
		c.checkIn("apt-1")
		c.say(user, visit, `{"action":"EMERGENCY_REQUESTED","appointmentId":"apt-1","reason":"`+phi+`","reasonCode":"fall"}`)
		i := slices.IndexFunc(c.said, func(m said) bool { return strings.HasPrefix(m.Channel, markLog) })
		subject, _ := MessageSubject(c.said[i].Channel)
		fits(t, outboundSchemas(t)["internal/raise"], c.said[i].Payload)
		long := c.raised(subject, c.said[i].Message)
		plain := fmt.Sprintf(`{"timestamp":"%s","action":"EMERGENCY_REQUESTED","reason":"%s","reasonCode":"fall"}`, c.now.Format(time.RFC3339), phi)
		short, err := codec.Raise(visit, user, fmt.Sprint(c.now.UnixNano()/100), []byte(plain), inCardiology)
		if err != nil {
			t.Fatal(err)
		}
		if short.Subject != long.Subject || !bytes.Equal(short.Data, long.Data) || short.Lane != states.LaneEmergency {
			t.Errorf("short %s %s\nlong  %s %s", short.Subject, short.Data, long.Subject, long.Data)
		}
		one, err := codec.Decode(short)
		if err != nil {
			t.Fatal(err)
		}
		other, err := codec.Decode(long)
		if err != nil {
			t.Fatal(err)
		}
		if one.ID != other.ID || one.Escalation != other.Escalation || one.Actor != other.Actor || !Identifier(one.Escalation) {
			t.Errorf("short %+v\nlong  %+v", one, other)
		}
		if one.Severity != states.SeverityCritical || one.Source != states.SourceConsultd || one.Appointment != "apt-1" || one.Consultation != visit {
			t.Errorf("%+v", one)
		}
	}
}

func TestRaiseRefusesWhatIsNoRequest(t *testing.T) {
	codec := newCodec(t)
	const ok = `{"action":"EMERGENCY_REQUESTED"}`
	for what, test := range map[string]struct{ channel, user, plain, department, code string }{
		"another channel":  {room, "pat-1", ok, "cardiology", CodeUnknownChannel},
		"video":            {visit + ".video", "pat-1", ok, "cardiology", CodeUnknownChannel},
		"no publisher":     {visit, "", ok, "cardiology", CodeActorMissing},
		"no JSON":          {visit, "pat-1", `{`, "cardiology", CodeNotJSON},
		"huge":             {visit, "pat-1", strings.Repeat(" ", MaxMessage+1), "cardiology", CodeTooLarge},
		"another message":  {visit, "pat-1", `{"action":"PATIENT_JOINED","patientId":"pat-1","timestamp":"2026-03-02T09:00:00Z"}`, "cardiology", CodeUnknownAction},
		"no department":    {visit, "pat-1", ok, "", CodeBadIdentifier},
		"an unknown field": {visit, "pat-1", `{"action":"EMERGENCY_REQUESTED","note":"` + phi + `"}`, "cardiology", CodeSchema},
	} {
		_, err := codec.Raise(test.channel, test.user, "17724420000000001", []byte(test.plain), func(states.Event) (string, string) { return "", test.department })
		var r *Refused
		if !errors.As(err, &r) || r.Code != test.code || strings.Contains(r.Error(), "Quagga") {
			t.Errorf("%s: %v, want %s", what, err, test.code)
		}
	}
}

func TestEncodeRefusesWhatMustNotLeave(t *testing.T) {
	codec := newCodec(t)
	v := &states.Visit{Appointment: "apt-1", Provider: "dr-smith", Patient: "pat-1", Department: "cardiology", State: states.VisitWaiting}
	ok := states.Effect{ID: "e.0", Kind: states.EffectNotify, To: "pat-1", Type: states.NoticeProviderReady, Visit: v, At: storedAt}
	with := func(change func(*states.Effect)) states.Effect {
		e := ok
		change(&e)
		return e
	}
	field := func(key string, value any) states.Effect {
		return with(func(e *states.Effect) { e.Fields = map[string]any{key: value} })
	}
	encode := func(e states.Effect) (map[states.Sink][]states.Message, error) {
		return codec.Encode(nil, states.Event{}, &states.Decision{Effects: []states.Effect{e}})
	}
	if out, err := encode(field("count", 1)); err != nil || len(out[states.SinkPubNub]) != 1 || !bytes.Contains(out[states.SinkNATS][0].Payload, []byte(`"count":1`)) {
		t.Fatalf("%v %s", err, asJSON(t, out))
	}
	for what, e := range map[string]states.Effect{
		"unknown type":        with(func(e *states.Effect) { e.Type = "LAB_RESULTS" }),
		"unknown kind":        with(func(e *states.Effect) { e.Kind = "shout" }),
		"addressee with dots": with(func(e *states.Effect) { e.To = "pat.1" }),
		"no addressee":        with(func(e *states.Effect) { e.To = "" }),
		"no visit":            with(func(e *states.Effect) { e.Kind, e.To, e.Visit = states.EffectQueue, "cardiology", nil }),
		"page about a visit":  with(func(e *states.Effect) { e.Kind, e.Transport = states.EffectPage, "sms" }),
		"free text":           field("reason", states.NewPHI(phi)),
		"a structure":         field("more", map[string]any{"a": phi}),
		"a field twice":       field("title", "another"),
		"file":                field("file", "x"),
		"message":             field("message", "x"),
		"push":                field("pn_apns", "x"),
		"too much":            field("code", strings.Repeat("x", MaxSaid)),
	} {
		out, err := encode(e)
		if err == nil {
			t.Errorf("%s is said: %s", what, asJSON(t, out))
		} else if strings.Contains(err.Error(), "Quagga") {
			t.Errorf("%s: the error repeats it", what)
		}
	}
}

func TestOneWrongNameDoesNotKeepOthersFromBeingPaged(t *testing.T) {
	codec := newCodec(t)
	esc := &states.Escalation{ID: "esc-1", Department: "cardiology", Severity: "critical", State: states.EscalationWaiting}
	page := states.Effect{ID: "aaaaaaaaaaaaaaaaaaaaaaaaaa.0", Kind: states.EffectNotify, To: "Dr. Wrong", Type: states.NoticeEscalation, Escalation: esc, At: storedAt, Fields: map[string]any{"round": 1}}
	good := page
	good.ID, good.To = "aaaaaaaaaaaaaaaaaaaaaaaaaa.1", "dr-jones"
	out, err := codec.Encode(nil, states.Event{}, &states.Decision{Effects: []states.Effect{page, good}})
	if err != nil {
		t.Fatal(err)
	}
	if len(out[states.SinkPubNub]) != 1 || out[states.SinkPubNub][0].Channel != "notification.dr-jones" {
		t.Errorf("%s", asJSON(t, out[states.SinkPubNub]))
	}
	dead := out[states.SinkNATS][0]
	if subject, _ := MessageSubject(dead.Channel); subject != "consult.dead.unencodable" || bytes.Contains(dead.Payload, []byte("Wrong")) {
		t.Errorf("%s: %s", subject, dead.Payload)
	}
	fits(t, outboundSchemas(t)["outbound/operations/dead-letter"], dead.Payload)
}

func TestDeadLettersReferToTheEntryOnly(t *testing.T) {
	codec, schema := newCodec(t), outboundSchemas(t)["outbound/operations/dead-letter"]
	for what, test := range map[string]struct {
		entry   states.Entry
		code    string
		payload string
		subject string
	}{
		"of an app": {
			app("consult.in.waiting-room.dr-smith", "ann@example.org", phi), CodeNotJSON,
			`{"id":"dead.n.7","lane":"n","seq":7,"subject":"consult.in.waiting-room.dr-smith","code":"NOT_JSON","detail":"why","at":"2026-03-02T09:00:00.000Z","actor":"` + surrogate("ann@example.org") + `"}`,
			"consult.dead.not_json",
		},
		"of a sink": {
			states.Entry{Lane: "e", Seq: 3},
			"UNDELIVERABLE",
			`{"id":"dead.e.3.undeliverable","lane":"e","seq":3,"code":"UNDELIVERABLE","detail":"why"}`, "consult.dead.undeliverable",
		},
		"without a code": {
			states.Entry{Lane: "e", Seq: 3, Subject: "consult.urgent.rules"},
			"any > thing",
			`{"id":"dead.e.3","lane":"e","seq":3,"subject":"consult.urgent.rules","code":"UNREADABLE","detail":"why"}`, "consult.dead.unreadable",
		},
	} {
		m := codec.DeadLetter(test.entry, test.code, "why")
		if subject, intoLog := MessageSubject(m.Channel); subject != test.subject || intoLog {
			t.Errorf("%s goes to %s", what, subject)
		}
		if string(m.Payload) != test.payload {
			t.Errorf("%s:\n got %s\nwant %s", what, m.Payload, test.payload)
		}
		fits(t, schema, m.Payload)
	}
	long := codec.DeadLetter(states.Entry{Lane: "n", Seq: 1, Subject: strings.Repeat("é\xff", 1000)}, CodeUnknownChannel, strings.Repeat("d", 100))
	fits(t, schema, long.Payload)
}

func TestPushBlocksFollowTheOptions(t *testing.T) {
	plain, err := New(Options{Organization: "clinic-north"})
	if err != nil {
		t.Fatal(err)
	}
	full := newCodec(t)
	for kind := range full.texts {
		for urgency, sound := range []string{"default", emergencySound} {
			var keys, without map[string]map[string]any
			decodeInto(t, []byte("{"+string(full.push[kind][urgency])+"}"), &keys)
			decodeInto(t, []byte("{"+string(plain.push[kind][urgency])+"}"), &without)
			if got := keys["pn_apns"]["aps"].(map[string]any)["sound"]; got != sound {
				t.Errorf("%s: sound %v", kind, got)
			}
			if _, android := keys["pn_fcm"]["android"]; android != (urgency == pushCritical) {
				t.Errorf("%s: %v", kind, keys["pn_fcm"])
			}
			if keys["pn_apns"]["pn_push"] == nil || keys["pn_gcm"] == nil || without["pn_apns"]["pn_push"] != nil || without["pn_gcm"] != nil {
				t.Errorf("%s: %v\n%v", kind, keys, without)
			}
		}
	}
}

func TestREADMEListsEverySchema(t *testing.T) {
	readme, err := Schemas.ReadFile("schema/README.md")
	if err != nil {
		t.Fatal(err)
	}
	err = fs.WalkDir(Schemas, "schema", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && path.Ext(name) == ".json" && !strings.HasPrefix(name, "schema/internal/") {
			if link := strings.TrimPrefix(name, "schema/"); !bytes.Contains(readme, []byte("("+link+")")) {
				t.Errorf("README.md does not list %s", link)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func fits(t testing.TB, schema *jsonschema.Schema, payload []byte) {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	if err == nil {
		err = schema.Validate(value)
	}
	if err != nil {
		t.Errorf("%v in %s", err, payload)
	}
}
