package scenario_test

import (
	"testing"
	"time"

	"consultd/test/clinic"
)

const (
	provider = "dr-smith"
	patient  = "pat-1"
	room     = "waiting-room.dr-smith"
	visit    = "consultation.dr-smith.pat-1"
)

// A booked visit from booking to its notes, every step said to whom the seeds say it is said.
func TestAVisitFromBookingToNotes(t *testing.T) {
	t.Parallel()
	c := clinic.Start(t, clinic.Options{})
	c.Run()
	seen := c.Observe()
	backend := c.Backend()
	doctor := c.App(provider, "notification."+provider)
	person := c.App(patient, "notification."+patient)

	backend.Say("backend:scheduler", room, clinic.M{
		"action": "APPOINTMENT_SCHEDULED", "appointmentId": "apt-1", "patientId": patient, "providerId": provider,
		"departmentId": "cardiology", "startsAt": time.Now().Add(10 * time.Minute).UTC().Format(time.RFC3339),
	})
	person.Say(room, clinic.M{"action": "PATIENT_CHECKED_IN", "appointmentId": "apt-1", "patientId": patient, "consultationId": visit})

	seen.Await("queue entry", clinic.With("queue.cardiology", clinic.M{"action": "PATIENT_ADDED"}))
	doctor.Await("PATIENT_READY in the provider's app", clinic.With("notification."+provider, clinic.M{"type": "PATIENT_READY", "appointmentId": "apt-1"}))

	person.Say(room, clinic.M{"action": "PATIENT_READY_CONFIRMED", "appointmentId": "apt-1", "deviceReady": true})
	seen.Await("waiting", clinic.With(visit, clinic.M{"action": "STATE_CHANGED", "state": "waiting"}))

	doctor.Say(visit, clinic.M{"action": "PROVIDER_JOINED", "providerId": provider, "state": "connecting"})
	person.Await("PROVIDER_READY in the patient's app", clinic.With("notification."+patient, clinic.M{"type": "PROVIDER_READY"}))

	person.Say(visit, clinic.M{"action": "PATIENT_JOINED", "patientId": patient})
	seen.Await("in progress", clinic.With(visit, clinic.M{"action": "STATE_CHANGED", "state": "in-progress"}))

	doctor.Say(visit, clinic.M{"action": "CONSULTATION_ENDED", "providerId": provider, "summary": clinic.M{"duration": 12, "followUpRequired": true}})
	seen.Await("wrapping up", clinic.With(visit, clinic.M{"action": "STATE_CHANGED", "state": "wrapping-up"}))

	doctor.Say(visit, clinic.M{"action": "NOTES_COMPLETED", "providerId": provider})
	seen.Await("completed", clinic.With(visit, clinic.M{"action": "STATE_CHANGED", "state": "completed"}))
	seen.Await("left the queue", clinic.With("queue.cardiology", clinic.M{"action": "PATIENT_REMOVED", "reason": "completed"}))
}
