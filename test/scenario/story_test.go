package scenario_test

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	"consultd/states"
	"consultd/test/clinic"
	"consultd/test/pubnub/jsclient"
)

// story is one patient's visit to one provider, with a department, a waiting room and a consultation channel that no other
// story uses. What is said on their channels has to be named, message by message and in order; at the end nothing may be left.
type story struct {
	t       *testing.T
	house   *house
	clinic  *clinic.Clinic
	backend *clinic.Backend

	provider, patient, department, appointment string
	onCall                                     [2]string // on call for the department, as the configuration says
	escalation                                 string    // the emergency that the story is about, once it is known

	claimed map[string]int // messages named so far, by channel
	turn    int            // how often goesOn was asked
}

// sharedSupervisor is the failsafe of every department: a story looks only at what concerns its own emergency.
const sharedSupervisor = "supervisor-1"

func (s *story) room() string      { return "waiting-room." + s.provider }
func (s *story) visit() string     { return "consultation." + s.provider + "." + s.patient }
func (s *story) queue() string     { return "queue." + s.department }
func (s *story) emergency() string { return "emergency." + s.department }

// again is the same people's next appointment.
func (s *story) nextAppointment() {
	s.appointment += "x"
}

// A voice is how somebody speaks: over NATS through the backend, or over PubNub from an app.
type voice func(channel string, body M)

// via is the voice of somebody whom the backend has authenticated, "role:id".
func (s *story) via(actor string) voice {
	return func(channel string, body M) { s.backend.Say(actor, channel, body) }
}

func (s *story) asPatient() voice  { return s.via("patient:" + s.patient) }
func (s *story) asProvider() voice { return s.via("provider:" + s.provider) }
func (s *story) asBackend() voice  { return s.via("backend:scheduler") }
func (s *story) asNurse() voice    { return s.via("nurse:nurse-lee") }

// app is the voice of somebody's app, made with PubNub's Go SDK.
func (s *story) app(user string) voice {
	a := s.clinic.App(user)
	return a.Say
}

// browser is the voice of somebody's browser, made with PubNub's JavaScript SDK.
func (s *story) browser(user string) voice {
	s.t.Helper()
	client := s.javascript(user)
	return func(channel string, body M) {
		s.t.Helper()
		stamp(body)
		if _, err := client.Publish(s.t.Context(), channel, body); err != nil {
			s.t.Fatalf("browser of %s: %v", user, err)
		}
	}
}

func (s *story) javascript(user string) *jsclient.Client {
	s.t.Helper()
	keys := s.clinic.PubNub.Config()
	client, err := jsclient.Start(s.t.Context(), jsclient.Options{
		Origin: s.clinic.PubNub.Origin(), PublishKey: keys.PublishKey, SubscribeKey: keys.SubscribeKey,
		UserID: user, CipherKey: clinic.CipherKey,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(client.Close)
	return client
}

func stamp(body M) {
	if _, ok := body["timestamp"]; !ok {
		body["timestamp"] = time.Now().UTC().Format(time.RFC3339Nano)
	}
}

func with(body M, extra []M) M {
	for _, more := range extra {
		for key, value := range more {
			body[key] = value
		}
	}
	return body
}

// atDesk says something in the waiting room about the story's appointment.
func (s *story) atDesk(who voice, action string, extra ...M) {
	s.t.Helper()
	who(s.room(), with(M{"action": action, "appointmentId": s.appointment}, extra))
}

// booked is the backend's booking for a time from now.
func (s *story) booked(in time.Duration, extra ...M) {
	s.t.Helper()
	s.atDesk(s.asBackend(), "APPOINTMENT_SCHEDULED", append([]M{{
		"patientId": s.patient, "providerId": s.provider, "departmentId": s.department, "startsAt": inUTC(in),
	}}, extra...)...)
	s.went("scheduled")
}

func inUTC(in time.Duration) string { return time.Now().Add(in).UTC().Format(time.RFC3339Nano) }

// checksIn says that the patient is here; a walk-in also names the department.
func (s *story) checksIn(who voice, extra ...M) {
	s.t.Helper()
	s.atDesk(who, "PATIENT_CHECKED_IN", append([]M{{"patientId": s.patient, "consultationId": s.visit()}}, extra...)...)
}

// walksIn is a patient without an appointment whose device is ready.
func (s *story) walksIn(who voice, extra ...M) {
	s.t.Helper()
	s.checksIn(who, append([]M{{"departmentId": s.department, "deviceReady": true}}, extra...)...)
}

// waits brings the story to where the patient waits: a walk-in that everybody was told of.
func (s *story) waits(extra ...M) {
	s.t.Helper()
	s.walksIn(s.asPatient(), extra...)
	s.queued("PATIENT_ADDED", M{"entry.status": "waiting"})
	s.told(s.provider, "PATIENT_READY")
	s.went("waiting")
}

// meets brings the story to where patient and provider talk.
func (s *story) meets() {
	s.t.Helper()
	s.waits()
	s.patientSays(s.asPatient(), "PATIENT_JOINED")
	s.providerSays(s.asProvider(), "PROVIDER_JOINED")
	s.queued("STATUS_UPDATED", M{"newStatus": "in-consultation"})
	s.told(s.patient, "PROVIDER_READY")
	s.went("in-progress")
}

// providerSays is something that a provider says in the consultation.
func (s *story) providerSays(who voice, action string, extra ...M) {
	s.t.Helper()
	who(s.visit(), with(M{"action": action, "providerId": s.provider}, extra))
}

// patientSays is something that a patient says in the consultation.
func (s *story) patientSays(who voice, action string, extra ...M) {
	s.t.Helper()
	who(s.visit(), with(M{"action": action, "patientId": s.patient}, extra))
}

func (s *story) ends() {
	s.t.Helper()
	s.providerSays(s.asProvider(), "CONSULTATION_ENDED", M{"summary": M{"duration": 12, "followUpRequired": true}})
}

// told names the next thing that a person is told: the type of the notification and what it says.
func (s *story) told(person, notice string, fields ...M) M {
	s.t.Helper()
	return s.next("notification."+person, "type", notice, fields)
}

// paged names the next page that a person gets by SMS.
func (s *story) paged(person string, fields ...M) M {
	s.t.Helper()
	return s.next("page.sms."+person, "type", "EMERGENCY_ESCALATION", fields)
}

// queued names the next change of the department's queue.
func (s *story) queued(action string, fields ...M) M {
	s.t.Helper()
	return s.next(s.queue(), "action", action, fields)
}

// went names the next state of the visit.
func (s *story) went(state string, fields ...M) {
	s.t.Helper()
	s.next(s.visit(), "action", "STATE_CHANGED", append(fields, M{"state": state}))
}

// announced names the next thing said on the department's emergency channel.
func (s *story) announced(action string, fields ...M) M {
	s.t.Helper()
	return s.next(s.emergency(), "action", action, fields)
}

// next waits for the next message on a channel and compares it.
func (s *story) next(channel, key, what string, fields []M) (got M) {
	s.t.Helper()
	s.house.ear.await(s.t, what+" on "+channel, func() (bool, string) {
		list := s.on(channel)
		if n := s.claimed[channel]; len(list) > n {
			got = list[n]
			return true, ""
		}
		return false, s.summary()
	})
	s.claimed[channel]++
	if fmt.Sprint(got[key]) != what {
		s.t.Fatalf("on %s came %s instead of %s\n%s", channel, describe(got), what, s.summary())
	}
	for _, want := range fields {
		for path, value := range want {
			if is := fmt.Sprint(at(got, path)); is != fmt.Sprint(value) {
				s.t.Fatalf("%s on %s has %s = %s, want %v: %v", what, channel, path, is, value, got)
			}
		}
	}
	return got
}

// on is what was said on a channel, without what was said about other stories to people whom all share.
func (s *story) on(channel string) []M {
	all := s.house.ear.on(channel)
	if !strings.HasSuffix(channel, "."+sharedSupervisor) {
		return all
	}
	var mine []M
	for _, m := range all {
		if m["departmentId"] == s.department {
			mine = append(mine, m)
		}
	}
	return mine
}

// at is a field of a message, by its path.
func at(body M, path string) any {
	var value any = body
	for _, key := range strings.Split(path, ".") {
		object, _ := value.(map[string]any)
		value = object[key]
	}
	return value
}

func describe(body M) string {
	what := body["type"]
	if what == nil {
		what = body["action"]
	}
	if state := body["state"]; state != nil {
		return fmt.Sprint(what, " ", state)
	}
	return fmt.Sprint(what)
}

// people are those who may be told something in this story.
func (s *story) people() []string {
	return []string{s.provider, s.patient, s.onCall[0], s.onCall[1], sharedSupervisor}
}

// ownChannels are all channels on which this story may be spoken of.
func (s *story) ownChannels() []string {
	channels := []string{s.queue(), s.visit(), s.emergency()}
	for _, p := range s.people() {
		channels = append(channels, "notification."+p, "page.sms."+p)
	}
	return channels
}

// summary lists what was said in this story, for a failing test.
func (s *story) summary() string {
	var lines []string
	for _, channel := range s.ownChannels() {
		for i, m := range s.on(channel) {
			mark := "named"
			if i >= s.claimed[channel] {
				mark = "not named"
			}
			lines = append(lines, fmt.Sprintf("  %v  %-32s %s (%s)", m["timestamp"], channel, describe(m), mark))
		}
	}
	sort.Strings(lines)
	return "said so far:\n" + strings.Join(lines, "\n")
}

// nothingMore makes sure that everything said on the story's channels has been named. Whatever its partitions were still
// going to say because of what happened before has been said when they answer a last message each.
func (s *story) nothingMore() {
	s.t.Helper()
	for _, channel := range []string{s.room(), s.emergency()} {
		s.house.fence(s, channel)
	}
	s.house.ear.catchUp(s.t)
	for _, channel := range s.ownChannels() {
		for _, m := range s.on(channel)[min(s.claimed[channel], len(s.on(channel))):] {
			s.t.Errorf("on %s was also said: %v", channel, m)
		}
	}
	if s.t.Failed() {
		s.t.Log(s.summary())
	}
}

// refused waits for the audit entry of a refusal on one of the story's channels.
func (s *story) refused(actor, action, code string) {
	s.t.Helper()
	s.house.ear.await(s.t, "refusal of "+action+" with "+code, func() (bool, string) {
		var saw []string
		for _, entry := range s.house.ear.auditOf(s.room(), s.visit(), s.emergency()) {
			if entry.Outcome != "refused" {
				continue
			}
			if entry.Action == action && entry.Details["code"] == code && entry.Actor.ID == actor && entry.EventType == "EVENT_REJECTED" {
				return true, ""
			}
			saw = append(saw, fmt.Sprintf("%s by %s: %s", entry.Action, entry.Actor.ID, entry.Details["code"]))
		}
		return false, "refused were " + strings.Join(saw, "; ")
	})
}

// buried waits for the dead letter of a log entry.
func (s *story) buried(lane string, seq uint64, code string) {
	s.t.Helper()
	s.house.buried(s.t, deadKey{lane, seq}, code)
}

// waiting is the order in which patients wait for the story's provider, and in its department.
func (s *story) waitOrder(what string, want ...string) {
	s.t.Helper()
	eventually(s.t, what, func() (bool, string) {
		room, err := s.house.store.WaitingRoom(s.t.Context(), s.provider)
		if err != nil {
			s.t.Fatal(err)
		}
		queue, err := s.house.store.Queue(s.t.Context(), s.department)
		if err != nil {
			s.t.Fatal(err)
		}
		return fmt.Sprint(room) == fmt.Sprint(want) && fmt.Sprint(queue) == fmt.Sprint(want),
			fmt.Sprintf("waiting room %v, queue %v, want %v", room, queue, want)
	})
}

// stored is the visit as Redis keeps it; nil when there is none.
func (s *story) stored() *states.Visit {
	s.t.Helper()
	records, err := s.house.store.Load(s.t.Context(), states.RecordID{Kind: states.KindVisit, ID: s.appointment})
	if err != nil {
		s.t.Fatal(err)
	}
	return records[0].Visit
}

// load waits until the provider is in so many visits.
func (s *story) load(want int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("a load of %d", want), func() (bool, string) {
		n, err := s.house.store.ProviderLoad(s.t.Context(), s.provider)
		return err == nil && n == want, fmt.Sprint(n, err)
	})
}

// accepted waits until so many events of a kind were accepted.
func (s *story) accepted(action string, n int) {
	s.t.Helper()
	s.house.ear.await(s.t, fmt.Sprintf("%d accepted %s", n, action), func() (bool, string) {
		is := s.count(action, "success")
		return is >= n, fmt.Sprintf("%d of them", is)
	})
}

// decided makes sure that there were exactly so many decisions about an action, refusals included. What the partitions have
// decided by now is in the audit trail when it has their refusals of a last message each.
func (s *story) decided(action string, n int) {
	s.t.Helper()
	s.turn++
	id := fmt.Sprintf("fence-%d", s.turn)
	s.backend.Say("nurse:"+id, s.room(), M{"action": "PRIORITY_CHANGED", "appointmentId": id, "priority": "urgent"})
	s.refused(id, "PRIORITY_CHANGED", "UNKNOWN_VISIT")
	s.backend.Say("nurse:"+id, s.emergency(), M{"action": "EMERGENCY_CANCELLED", "escalationId": id, "userId": id, "reasonCode": "fence"})
	s.refused(id, "EMERGENCY_CANCELLED", "UNKNOWN_ESCALATION")
	if is := s.count(action, "success") + s.count(action, "refused"); is != n {
		s.t.Errorf("%d decisions about %s, want %d", is, action, n)
	}
}

func (s *story) count(action, outcome string) (n int) {
	for _, entry := range s.house.ear.auditOf(s.room(), s.visit(), s.emergency()) {
		if entry.Action == action && entry.Outcome == outcome {
			n++
		}
	}
	return n
}

func decoded(t *testing.T, data []byte) M {
	t.Helper()
	var body M
	if err := json.Unmarshal(data, &body); err != nil {
		t.Fatal(err)
	}
	if other, ok := body["pn_other"].(M); ok {
		return other
	}
	return body
}

func timerKind(name string) states.TimerKind { return states.TimerKind(name) }

// claimAll names what is left on a channel, as long as it is of the given type.
func (s *story) claimAll(channel, what string) {
	list := s.on(channel)
	for s.claimed[channel] < len(list) && strings.HasPrefix(describe(list[s.claimed[channel]]), what) {
		s.claimed[channel]++
	}
}

// raises is a call for help to the story's department.
func (s *story) raises(who voice, extra ...M) {
	s.t.Helper()
	s.escalation = "esc-" + s.department
	who(s.emergency(), with(M{
		"action": "EMERGENCY_ESCALATION", "id": s.escalation, "escalatedBy": "nurse-lee", "severity": "critical",
		"reasonCode": "collapse", "consultationId": s.visit(), "status": "active",
	}, extra))
}

// everybodyPaged names the pages to both people on call.
func (s *story) everybodyPaged(round int) {
	s.t.Helper()
	for _, p := range s.onCall {
		s.pagedOnBoth(p, round)
	}
}

// pagedOnBoth names a page in all its forms: to the app, and by SMS.
func (s *story) pagedOnBoth(person string, round int) {
	s.t.Helper()
	s.told(person, "EMERGENCY_ESCALATION", M{"round": round, "priority": "critical", "departmentId": s.department, "escalationId": s.escalation})
	s.paged(person, M{"round": round, "priority": "critical", "escalationId": s.escalation})
}

// answers is what somebody on call says to the story's emergency.
func (s *story) answers(who voice, person, action string, extra ...M) {
	s.t.Helper()
	who(s.emergency(), with(M{"action": action, "escalationId": s.escalation, "userId": person}, extra))
}

// storedEscalation is the emergency as Redis keeps it; nil when there is none.
func (s *story) storedEscalation() *states.Escalation {
	s.t.Helper()
	records, err := s.house.store.Load(s.t.Context(), states.EscalationRecord(s.department, s.escalation))
	if err != nil {
		s.t.Fatal(err)
	}
	return records[0].Escalation
}
