package handlers

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"consultd/states"
)

// FuzzDecode holds that Decode never panics, that what it refuses is refused for good with a code and without values, and
// that what it accepts has an identity and only identifiers where names of channels are made of them.
func FuzzDecode(f *testing.F) {
	c := newCodec(f)
	for name, example := range examples() {
		f.Add(subjectOf(name), "", []byte(example))
		f.Add(subjectOf(name), "pubnub", seal(example))
		f.Add(subjectOf(name), "consultd", []byte(example))
	}
	f.Add("consult.log.timer.dr-smith", "", []byte(`{"timer":"no-show|visit:apt-1|1|dr-smith"}`))
	f.Add("consult.urgent.oncall.cardiology", "", []byte(`{"escalationId":"e","departmentId":"cardiology","users":["u"],"origin":"http","ageMs":0}`))
	f.Add("consult.in.waiting-room.dr.smith", "", []byte(`{}`))
	f.Add("", "", []byte(`{"a":1e999999999}`))
	f.Fuzz(func(t *testing.T, subject, source string, data []byte) {
		e := states.Entry{Lane: LaneOf(subject), Seq: 1, At: storedAt, Subject: subject, Data: data, Header: map[string]string{
			HeaderSource: source, HeaderActor: "clinic-backend", HeaderRole: "backend", HeaderTimetoken: "17724420000000001",
		}}
		ev, err := c.Decode(e)
		if err != nil {
			var r *Refused
			if !errors.As(err, &r) || r.Code == "" || r.Detail == "" {
				t.Fatalf("%v is no proper refusal", err)
			}
			letter := c.DeadLetter(e, r.Code, r.Detail)
			if !json.Valid(letter.Payload) {
				t.Fatalf("dead letter is not JSON: %q", letter.Payload)
			}
			return
		}
		if ev.ID == "" || ev.Kind == "" || ev.At.IsZero() {
			t.Fatalf("incomplete event: %+v", ev)
		}
		for what, id := range map[string]string{
			"appointment": ev.Appointment, "provider": ev.Provider, "patient": ev.Patient, "department": ev.Department,
			"escalation": ev.Escalation, "actor": ev.Actor.ID, "claim": ev.ClaimedSender,
		} {
			if id != "" && !Identifier(id) {
				t.Fatalf("%s %q is no identifier", what, id)
			}
		}
		if key := c.Key(subject); !Identifier(key) {
			t.Fatalf("%s was decoded but has the key %q", subject, key)
		}
		again, err := c.Decode(e)
		if err != nil || again.ID != ev.ID {
			t.Fatalf("the second reading differs: %v", err)
		}
	})
}

// FuzzParseChannel holds that a name that is accepted is rebuilt from its parts, and that no name gets lost on its way into a log.
func FuzzParseChannel(f *testing.F) {
	for _, name := range []string{"waiting-room.dr-smith", "consultation.d.p.video", "presence.providers.x", "page.sms.u", "emergency.a.b", "", "."} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if c, err := ParseChannel(name); err == nil && c.Name() != name {
			t.Fatalf("%q becomes %q", name, c.Name())
		}
		subject := InSubject(name)
		if subject != unreadable && subject != prefixIn+name || strings.ContainsAny(subject, " *>\t\r\n") {
			t.Fatalf("%q becomes subject %q", name, subject)
		}
	})
}
