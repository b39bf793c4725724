package handlers

import (
	"testing"

	"consultd/states"
)

func BenchmarkDecode(b *testing.B) {
	c := newCodec(b)
	for _, name := range []string{"waiting-room/PATIENT_CHECKED_IN", "consultation/PROVIDER_JOINED", "consultation/CONSULTATION_ENDED", "emergency/EMERGENCY_ESCALATION"} {
		e := backend(subjectOf(name), examples()[name])
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Decode(e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	e := states.Entry{Lane: states.LaneNormal, Subject: "consult.log.timer.dr-smith", Data: []byte(`{"timer":"no-show|visit:apt-1|1|dr-smith"}`)}
	b.Run("timer", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.Decode(e); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncodeCheckIn(b *testing.B) {
	c := newCodec(b)
	v := &states.Visit{
		Appointment: "apt-1", Provider: "dr-smith", Patient: "pat-1", Department: "cardiology", State: states.VisitCheckedIn,
		Priority: states.PriorityNormal, CheckedInAt: storedAt,
	}
	effect := states.Effect{ID: "hzg7oxvfpxsdl6o5xbtczunr4e.0", Visit: v, At: storedAt, Actor: states.Actor{ID: "pat-1", Role: states.RolePatient}}
	added, notice, changed := effect, effect, effect
	added.Kind, added.To, added.Type = states.EffectQueue, "cardiology", states.ActionPatientAdded
	notice.Kind, notice.To, notice.Type, notice.Priority = states.EffectNotify, "dr-smith", states.NoticePatientReady, states.NoticeHigh
	changed.Kind, changed.To, changed.Type = states.EffectConsultation, "dr-smith", states.ActionStateChanged
	changed.Fields = map[string]any{"from": "scheduled", "state": "checked-in", "cause": "PATIENT_CHECKED_IN"}
	d := states.Decision{Effects: []states.Effect{added, notice, changed}, Audit: make([]states.AuditEntry, 2)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Encode(nil, states.Event{}, &d); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkKey(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if key, _ := Key("consult.in.consultation.dr-smith.pat-1"); key != "dr-smith" {
			b.Fatal(key)
		}
	}
}
