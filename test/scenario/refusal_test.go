package scenario_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"consultd/handlers/pubnub"
)

// What nobody can read or nobody may say: each has its reason, and what comes after it on the same channel is heard.
func TestRefusals(t *testing.T) {
	t.Parallel()
	h := open(t, build{})
	h.tell(map[string]func(*story){
		"unreadable messages over NATS":                      unreadableOverNATS,
		"unreadable emergencies over NATS":                   unreadableEmergencies,
		"channels that are nobody's business":                strangeChannels,
		"unreadable messages over PubNub":                    unreadableOverPubNub,
		"people who may not, over NATS":                      mayNotOverNATS,
		"people who may not, over PubNub":                    mayNotOverPubNub,
		"staff of the directory may, whoever else may not":   staffByDirectory,
		"what means nothing at this moment":                  wrongMoment,
		"clocks that are far off":                            wrongClocks,
		"somebody else's appointment":                        wrongVisit,
		"a nurse may name the patient, but nobody else":      aNurseNames,
		"who is told nothing of a visit that is not his own": strangersLearnNothing,
	})
	h.judge()
}

// goesOn proves that the waiting room still listens: a good message changes the patient's priority, back and forth.
func (s *story) goesOn(who voice) {
	s.t.Helper()
	s.turn++
	priority := []string{"normal", "urgent"}[s.turn%2]
	s.atDesk(who, "PRIORITY_CHANGED", M{"priority": priority})
	s.queued("STATUS_UPDATED", M{"queueEntryId": s.appointment, "priority": priority})
}

// raw is a message as bytes, with fields left out or put in.
func (s *story) raw(extra M) []byte {
	body := M{"id": "m-raw", "action": "PRIORITY_CHANGED", "appointmentId": s.appointment, "priority": "urgent"}
	stamp(body)
	for key, value := range extra {
		if value == nil {
			delete(body, key)
		} else {
			body[key] = value
		}
	}
	data, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	return data
}

// unreadable are bad messages for a waiting room, with the code of their dead letter.
func unreadable(s *story) []struct {
	what, code string
	data       []byte
} {
	deep := strings.Repeat(`{"a":`, 80) + "1" + strings.Repeat("}", 80)
	return []struct {
		what, code string
		data       []byte
	}{
		{"not JSON", "NOT_JSON", []byte(`{"action":"PRIORITY_CHANGED",`)},
		{"nothing", "NOT_JSON", []byte{}},
		{"a list", "NOT_JSON", []byte(`["PRIORITY_CHANGED"]`)},
		{"two objects", "NOT_JSON", append(s.raw(nil), s.raw(nil)...)},
		{"not UTF-8", "INVALID_UTF8", []byte("{\"action\":\"\xff\xfe\"}")},
		{"a key twice", "DUPLICATE_KEY", []byte(`{"id":"m","action":"PRIORITY_CHANGED","action":"PATIENT_LEFT"}`)},
		{"too deep", "TOO_DEEP", []byte(deep)},
		{"unknown action", "UNKNOWN_ACTION", s.raw(M{"action": "FIRE_EVERYBODY"})},
		{"another channel's action", "UNKNOWN_ACTION", s.raw(M{"action": "CONSULTATION_ENDED"})},
		{"no action", "SCHEMA", s.raw(M{"action": nil})},
		{"a missing field", "SCHEMA", s.raw(M{"priority": nil})},
		{"an unknown field", "SCHEMA", s.raw(M{"note": freeText})},
		{"a wrong type", "SCHEMA", s.raw(M{"appointmentId": 7})},
		{"an unknown priority", "SCHEMA", s.raw(M{"priority": "asap"})},
		{"an id with dots", "BAD_IDENTIFIER", s.raw(M{"appointmentId": "apt.1"})},
		{"a time that is none", "SCHEMA", s.raw(M{"timestamp": "yesterday"})},
		{"too large", "TOO_LARGE", []byte(`{"note":"` + strings.Repeat(freeText, 1000) + `"}`)},
	}
}

func unreadableOverNATS(s *story) {
	s.waits()
	for _, bad := range unreadable(s) {
		s.buried("n", s.backend.SayRaw("nurse:nurse-lee", s.room(), bad.data), bad.code)
		s.goesOn(s.asNurse())
	}
	for actor, code := range map[string]string{"": "ACTOR_MISSING", "wizard:merlin": "ACTOR_MISSING", "nurse:": "ACTOR_MISSING", "nurse:lee.kim": "BAD_IDENTIFIER", "system:consultd": "ACTOR_MISSING"} {
		s.buried("n", s.backend.SayRaw(actor, s.room(), s.raw(nil)), code)
		s.goesOn(s.asNurse())
	}
	// A message without an id cannot be told from its repeat.
	s.buried("n", s.backend.SayRaw("nurse:nurse-lee", s.room(), s.raw(M{"id": nil})), "SCHEMA")
	// As much as NATS itself takes.
	s.buried("n", s.backend.SayRaw("nurse:nurse-lee", s.room(), []byte(strings.Repeat("x", 1<<20-1024))), "TOO_LARGE")
	s.goesOn(s.asNurse())
	// The message speaks of another provider than its channel.
	data, _ := json.Marshal(M{
		"id": "b-1", "action": "APPOINTMENT_SCHEDULED", "timestamp": inUTC(0), "appointmentId": "apt-other", "patientId": s.patient,
		"providerId": "dr-other", "departmentId": s.department, "startsAt": inUTC(time.Hour),
	})
	s.buried("n", s.backend.SayRaw("backend:scheduler", s.room(), data), "CHANNEL_MISMATCH")
	s.goesOn(s.asNurse())
	s.nothingMore()
}

func unreadableEmergencies(s *story) {
	for code, data := range map[string]string{
		"NOT_JSON":       "help",
		"SCHEMA":         `{"id":"e","action":"EMERGENCY_ESCALATION","escalatedBy":"nurse-lee","severity":"very"}`,
		"UNKNOWN_ACTION": `{"id":"e","action":"HELP"}`,
		"DUPLICATE_KEY":  `{"id":"e","id":"f","action":"EMERGENCY_ESCALATION"}`,
		"TOO_LARGE":      `{"reason":"` + strings.Repeat(freeText, 1000) + `"}`,
	} {
		s.buried("e", s.backend.SayRaw("nurse:nurse-lee", s.emergency(), []byte(data)), code)
	}
	s.buried("e", s.backend.SayRaw("", s.emergency(), []byte(`{"id":"e","action":"EMERGENCY_ESCALATION","escalatedBy":"x","severity":"critical"}`)), "ACTOR_MISSING")
	s.raises(s.asNurse())
	s.begins()
	s.closes(s.onCall[:]...)
}

func strangeChannels(s *story) {
	s.waits()
	long := strings.Repeat("d", 33)
	for channel, code := range map[string]string{
		"lobby":                                "UNKNOWN_CHANNEL",
		"waiting-room." + s.provider + ".left": "BAD_IDENTIFIER",
		"waiting-room." + long:                 "BAD_IDENTIFIER",
		"consultation." + s.provider:           "BAD_IDENTIFIER",
		s.visit() + ".audio":                   "BAD_IDENTIFIER",
		"consultation.dr*smith." + s.patient:   "BAD_IDENTIFIER",
		"queue." + s.department:                "NOT_INBOUND",
		"notification." + s.provider:           "NOT_INBOUND",
		"audit.test-clinic":                    "NOT_INBOUND",
	} {
		s.buried("n", s.backend.SayRaw("nurse:nurse-lee", channel, s.raw(nil)), code)
		s.goesOn(s.asNurse())
	}
	s.backend.SayRaw("provider:"+s.provider, s.visit()+".video", []byte(`{"type":"offer","sdp":"v=0"}`)) // between the two of them
	s.backend.SayRaw("provider:"+s.provider, s.visit()+".files", []byte(`not even JSON`))
	s.goesOn(s.asNurse())
	s.nothingMore()
}

func unreadableOverPubNub(s *story) {
	s.waits()
	nurse := s.app("nurse-lee")
	ours, err := pubnub.NewKeyRing("cipher-key-of-the-test-clinic")
	if err != nil {
		s.t.Fatal(err)
	}
	theirs, err := pubnub.NewKeyRing("somebody else's key")
	if err != nil {
		s.t.Fatal(err)
	}
	publish := func(what string, payload []byte, code string) {
		s.t.Helper()
		if _, err := s.clinic.PubNub.Publish(s.room(), "nurse-lee", json.RawMessage(payload)); err != nil {
			s.t.Fatal(err)
		}
		s.buriedFrom("nurse-lee", s.room(), code)
		s.goesOn(nurse)
	}
	seal := func(ring *pubnub.KeyRing, data []byte) []byte {
		sealed, err := ring.Encrypt(data)
		if err != nil {
			s.t.Fatal(err)
		}
		return sealed
	}
	publish("plaintext", s.raw(nil), "PLAINTEXT")
	publish("a text", []byte(`"hello"`), "PLAINTEXT")
	publish("another clinic's key", seal(theirs, s.raw(nil)), "UNDECRYPTABLE")
	for _, bad := range unreadable(s) {
		if json.Valid(bad.data) && len(bad.data) < 24<<10 { // the others cannot be published
			publish(bad.what, seal(ours, bad.data), bad.code)
		}
	}
	s.nothingMore()
}

// buriedFrom waits for the next dead letter of a PubNub user on a channel.
func (s *story) buriedFrom(user, channel, code string) {
	s.t.Helper()
	h := s.house
	h.ear.await(s.t, "dead letter "+code+" of "+user+" on "+channel, func() (bool, string) {
		h.ear.mu.Lock()
		defer h.ear.mu.Unlock()
		h.mu.Lock()
		defer h.mu.Unlock()
		var saw []string
		for where, letter := range h.ear.dead {
			if letter["actor"] != user || letter["subject"] != "consult.in."+channel {
				continue
			}
			if _, known := h.expect[where]; known {
				continue
			}
			if letter["code"] == code {
				h.expect[where] = code
				return true, ""
			}
			saw = append(saw, fmt.Sprint(letter["code"], " ", letter["detail"]))
		}
		return false, "others: " + strings.Join(saw, "; ")
	})
}

func mayNotOverNATS(s *story) {
	s.waits()
	for _, c := range []struct{ actor, action, decided, code string }{
		{"patient:" + s.patient, "PRIORITY_CHANGED", "", "ROLE_NOT_ALLOWED"},
		{"front-desk:desk-1", "PRIORITY_CHANGED", "", "ROLE_NOT_ALLOWED"},
		{"on-call:dr-chen", "PRIORITY_CHANGED", "", "ROLE_NOT_ALLOWED"},
		{"provider:dr-other", "PRIORITY_CHANGED", "", "WRONG_ACTOR"},
		{"provider:" + s.provider, "PATIENT_LEFT", "WAITING_ROOM_LEFT", "ROLE_NOT_ALLOWED"},
		{"patient:mallory", "PATIENT_LEFT", "WAITING_ROOM_LEFT", "WRONG_ACTOR"},
		{"patient:mallory", "APPOINTMENT_CANCELLED", "", "WRONG_ACTOR"},
		{"provider:dr-other", "APPOINTMENT_CANCELLED", "", "WRONG_ACTOR"},
	} {
		extra := M{}
		if c.action == "PRIORITY_CHANGED" {
			extra["priority"] = "emergency"
		}
		s.atDesk(s.via(c.actor), c.action, extra)
		if c.decided == "" {
			c.decided = c.action
		}
		s.refused(c.actor[strings.Index(c.actor, ":")+1:], c.decided, c.code)
		s.goesOn(s.asNurse())
	}
	s.providerSays(s.asPatient(), "PROVIDER_JOINED") // claiming to be the provider
	s.refused(s.patient, "PROVIDER_JOINED", "ROLE_NOT_ALLOWED")
	s.providerSays(s.via("provider:dr-other"), "PROVIDER_JOINED")
	s.refused("dr-other", "PROVIDER_JOINED", "WRONG_ACTOR")
	s.patientSays(s.via("patient:mallory"), "PATIENT_JOINED")
	s.refused("mallory", "PATIENT_JOINED", "WRONG_ACTOR")
	s.goesOn(s.asNurse())
	s.providerSays(s.asProvider(), "PROVIDER_JOINED")
	s.queued("STATUS_UPDATED", M{"newStatus": "in-consultation"})
	s.told(s.patient, "PROVIDER_READY")
	s.went("connecting")
	s.nothingMore()
}

func mayNotOverPubNub(s *story) {
	s.waits()
	mallory, patient := s.app("mallory"), s.app(s.patient)
	s.atDesk(mallory, "PATIENT_LEFT", M{"patientId": s.patient}) // claiming to be the patient
	s.refused("mallory", "WAITING_ROOM_LEFT", "ROLE_NOT_ALLOWED")
	s.atDesk(mallory, "PATIENT_LEFT", M{"patientId": "mallory"}) // a patient, but not this appointment's
	s.refused("mallory", "WAITING_ROOM_LEFT", "WRONG_ACTOR")
	s.atDesk(patient, "PRIORITY_CHANGED", M{"priority": "emergency"})
	s.refused(s.patient, "PRIORITY_CHANGED", "ROLE_NOT_ALLOWED")
	s.goesOn(s.asNurse())
	s.patientSays(mallory, "PATIENT_JOINED")
	s.refused("mallory", "PATIENT_JOINED", "ROLE_NOT_ALLOWED")
	s.providerSays(patient, "PROVIDER_JOINED")
	s.refused(s.patient, "PROVIDER_JOINED", "ROLE_NOT_ALLOWED")
	s.patientSays(patient, "PATIENT_JOINED", M{"patientId": "pat-other"}) // the patient, claiming to be another one
	s.refused(s.patient, "PATIENT_JOINED", "WRONG_ACTOR")
	s.patientSays(patient, "PATIENT_JOINED")
	s.providerSays(s.app(s.provider), "PROVIDER_JOINED")
	s.queued("STATUS_UPDATED", M{"newStatus": "in-consultation"})
	s.told(s.patient, "PROVIDER_READY")
	s.went("in-progress")
	s.nothingMore()
}

func staffByDirectory(s *story) {
	s.waits()
	s.goesOn(s.app("nurse-lee"))
	s.atDesk(s.app("nurse-unlisted"), "PRIORITY_CHANGED", M{"priority": "emergency"})
	s.refused("nurse-unlisted", "PRIORITY_CHANGED", "ROLE_NOT_ALLOWED")
	s.atDesk(s.app("desk-1"), "PRIORITY_CHANGED", M{"priority": "emergency"})
	s.refused("desk-1", "PRIORITY_CHANGED", "ROLE_NOT_ALLOWED")
	s.goesOn(s.app("nurse-lee"))
	s.atDesk(s.app("desk-1"), "PATIENT_LEFT")
	s.queued("PATIENT_REMOVED")
	s.told(s.provider, "SCHEDULE_CHANGE")
	s.went("left-without-being-seen")
	s.nothingMore()
}

func wrongMoment(s *story) {
	s.atDesk(s.asNurse(), "PRIORITY_CHANGED", M{"priority": "urgent"})
	s.refused("nurse-lee", "PRIORITY_CHANGED", "UNKNOWN_VISIT")
	s.providerSays(s.asProvider(), "PROVIDER_JOINED")
	s.refused(s.provider, "PROVIDER_JOINED", "UNKNOWN_VISIT")
	s.waits()
	s.ends()
	s.refused(s.provider, "CONSULTATION_ENDED", "WRONG_STATE")
	s.providerSays(s.asProvider(), "NOTES_COMPLETED")
	s.refused(s.provider, "NOTES_COMPLETED", "WRONG_STATE")
	s.providerSays(s.app(s.provider), "CONSULTATION_RESUMED")
	s.refused(s.provider, "CONSULTATION_RESUMED", "WRONG_STATE")
	s.atDesk(s.asPatient(), "PATIENT_READY_CONFIRMED", M{"deviceReady": true})
	s.refused(s.patient, "PATIENT_READY_CONFIRMED", "WRONG_STATE")
	s.walksIn(s.asPatient())
	s.refused(s.patient, "PATIENT_CHECKED_IN", "ALREADY_CHECKED_IN")
	s.atDesk(s.asBackend(), "APPOINTMENT_SCHEDULED", M{"patientId": s.patient, "providerId": s.provider, "departmentId": s.department, "startsAt": inUTC(time.Hour)})
	s.refused("scheduler", "APPOINTMENT_SCHEDULED", "ALREADY_BOOKED")
	s.goesOn(s.asNurse())
	s.nothingMore()
}

func wrongClocks(s *story) {
	s.waits()
	for _, off := range []time.Duration{3 * time.Hour, -3 * time.Hour} {
		for actor, who := range map[string]voice{s.patient: s.asPatient(), "nurse-lee": s.app("nurse-lee")} {
			s.atDesk(who, "PATIENT_LEFT", M{"timestamp": inUTC(off)})
			s.refused(actor, "WAITING_ROOM_LEFT", "CLOCK_SKEW")
			s.goesOn(s.app("nurse-lee"))
		}
	}
	s.decided("WAITING_ROOM_LEFT", 4)
	s.nothingMore()
}

func wrongVisit(s *story) {
	s.booked(5 * time.Minute)
	other := s.patient + "-other"
	s.asBackend()(s.room(), M{"action": "PATIENT_CHECKED_IN", "appointmentId": s.appointment, "patientId": other, "consultationId": "consultation." + s.provider + "." + other})
	s.refused("scheduler", "PATIENT_CHECKED_IN", "WRONG_VISIT")
	s.via("patient:"+other)(s.room(), M{"action": "PATIENT_CHECKED_IN", "appointmentId": s.appointment, "patientId": other, "consultationId": "consultation." + s.provider + "." + other})
	s.refused(other, "PATIENT_CHECKED_IN", "WRONG_ACTOR")
	s.checksIn(s.asPatient())
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("checked-in")
	s.nothingMore()
}

func aNurseNames(s *story) {
	s.booked(5 * time.Minute)
	other := s.patient + "-other"
	s.asNurse()(s.room(), M{"action": "PATIENT_CHECKED_IN", "appointmentId": s.appointment, "patientId": other, "consultationId": "consultation." + s.provider + "." + other})
	s.refused("nurse-lee", "PATIENT_CHECKED_IN", "WRONG_ACTOR")
	s.checksIn(s.asNurse())
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("checked-in")
	s.nothingMore()
}

// A stranger gets the same answer whatever state the visit is in.
func strangersLearnNothing(s *story) {
	s.booked(5 * time.Minute)
	s.providerSays(s.via("provider:dr-other"), "CONSULTATION_ENDED", M{"appointmentId": s.appointment, "summary": M{"duration": 1, "followUpRequired": false}})
	s.refused("dr-other", "CONSULTATION_ENDED", "WRONG_ACTOR")
	s.checksIn(s.asPatient(), M{"deviceReady": true})
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("waiting")
	s.providerSays(s.via("provider:dr-third"), "CONSULTATION_ENDED", M{"appointmentId": s.appointment, "summary": M{"duration": 1, "followUpRequired": false}})
	s.refused("dr-third", "CONSULTATION_ENDED", "WRONG_ACTOR")
	s.nothingMore()
}
