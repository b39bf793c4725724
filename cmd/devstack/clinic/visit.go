package clinic

import (
	"context"
	"fmt"
	"time"

	"consultd/handlers"
	"consultd/states"
)

// kind is how a visit goes.
type kind int

const (
	ordinary     kind = iota
	walkIn            // nobody booked it
	cancelled         // before anybody has checked in, or from the waiting room
	impatient         // the patient leaves without being seen
	dropped           // the patient's connection breaks and comes back
	withoutVideo      // the patient's device fails twice
	delayed           // the provider is running late
	emergency         // somebody in the visit asks for help
)

// kinds is how often each of them happens, of a hundred.
var kinds = [...]struct {
	kind  kind
	share int
}{{ordinary, 44}, {walkIn, 12}, {cancelled, 10}, {impatient, 9}, {dropped, 9}, {withoutVideo, 5}, {delayed, 5}, {emergency, 6}}

// firstEmergency is early enough for somebody who watches for the first time, and late enough to have seen how it usually goes.
const firstEmergency = 4

func (c *Clinic) plan(number int) plan {
	p := c.chance(uint64(number)) //nolint:gosec // from 1
	if number == firstEmergency {
		p.kind = emergency
		return p
	}
	at := p.rng.IntN(100)
	for _, k := range kinds {
		if at -= k.share; at < 0 {
			if p.kind = k.kind; p.kind == emergency && number < firstEmergency {
				p.kind = ordinary
			}
			return p
		}
	}
	return p
}

// visit is one patient's way through the clinic.
type visit struct {
	plan

	clinic   *Clinic
	id       string
	patient  *person
	provider *provider
}

// noticePatience is how long somebody waits for a notification before doing something without it.
const noticePatience = 20 * time.Second

func (v *visit) run(ctx context.Context) error {
	defer v.clinic.inbox.forget(v.id)
	steps := []func(context.Context) error{v.book, v.checkIn, v.getReady, v.wait, v.talk, v.writeNotes}
	switch v.kind {
	case walkIn:
		steps = steps[1:]
	case cancelled:
		steps = []func(context.Context) error{v.book, v.cancel}
		if v.chance(50) {
			steps = []func(context.Context) error{v.book, v.checkIn, v.cancel}
		}
	case impatient:
		steps = []func(context.Context) error{v.book, v.checkIn, v.getReady, v.giveUp}
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pause is the time that somebody takes; its error says that the clinic closes.
func (v *visit) pause(ctx context.Context, least, most time.Duration) error {
	if !v.between(least, most).wait(ctx) {
		return ctx.Err()
	}
	return nil
}

func (v *visit) waitingRoom() string { return handlers.WaitingRoom(v.provider.id) }

func (v *visit) consultation() string { return handlers.Consultation(v.provider.id, v.patient.id) }

func (v *visit) book(ctx context.Context) error {
	starts := time.Now().Add(time.Duration(1+v.rng.IntN(10)) * time.Minute).UTC().Truncate(time.Minute).Add(time.Minute)
	err := v.clinic.tell(ctx, v.waitingRoom(), message{
		"action": "APPOINTMENT_SCHEDULED", "appointmentId": v.id, "patientId": v.patient.id, "providerId": v.provider.id,
		"departmentId": v.provider.department, "startsAt": starts.Format(time.RFC3339), "priority": v.priority(),
	})
	if err != nil {
		return fmt.Errorf("book: %w", err)
	}
	return v.pause(ctx, 500*time.Millisecond, 2*time.Second)
}

func (v *visit) priority() string {
	switch at := v.rng.IntN(10); at {
	case 0:
		return "urgent"
	case 1, 2:
		return "follow-up"
	default:
		return "normal"
	}
}

func (v *visit) cancel(ctx context.Context) error {
	by := v.patient
	if v.chance(30) {
		by = v.provider.person
	}
	return by.say(ctx, v.waitingRoom(), message{"action": "APPOINTMENT_CANCELLED", "appointmentId": v.id, "reasonCode": "other-plans"})
}

func (v *visit) checkIn(ctx context.Context) error {
	told := v.clinic.inbox.expect(v.provider.id, states.NoticePatientReady, v.id)
	m := message{
		"action": "PATIENT_CHECKED_IN", "appointmentId": v.id, "patientId": v.patient.id, "consultationId": v.consultation(),
	}
	if v.kind == walkIn {
		m["departmentId"], m["deviceReady"] = v.provider.department, true
	}
	if err := v.patient.say(ctx, v.waitingRoom(), m); err != nil {
		return err
	}
	if err := v.await(ctx, told, "the provider was not told about the check-in"); err != nil {
		return err
	}
	return v.pause(ctx, 500*time.Millisecond, 2*time.Second)
}

// await waits for a notification. When none comes, people find out by themselves in the end, and say so.
func (v *visit) await(ctx context.Context, told <-chan struct{}, otherwise string) error {
	timer := time.NewTimer(noticePatience)
	defer timer.Stop()
	select {
	case <-told:
		return nil
	case <-timer.C:
		v.clinic.o.Complain(fmt.Sprintf("%s: %s within %s; going on all the same", v.id, otherwise, noticePatience))
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *visit) getReady(ctx context.Context) error {
	if v.kind == walkIn {
		return nil // tested before check-in
	}
	tests := []bool{true}
	if v.kind == withoutVideo {
		tests = []bool{false, false}
	}
	for _, ready := range tests {
		err := v.patient.say(ctx, v.waitingRoom(), message{"action": "PATIENT_READY_CONFIRMED", "appointmentId": v.id, "deviceReady": ready})
		if err != nil {
			return err
		}
		if err := v.pause(ctx, 500*time.Millisecond, 1500*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (v *visit) giveUp(ctx context.Context) error {
	if err := v.pause(ctx, 2*time.Second, 6*time.Second); err != nil {
		return err
	}
	return v.patient.say(ctx, v.waitingRoom(), message{"action": "PATIENT_LEFT", "appointmentId": v.id})
}

// wait ends when patient and provider are in the consultation.
func (v *visit) wait(ctx context.Context) error {
	if v.kind == delayed {
		err := v.provider.say(ctx, v.waitingRoom(), message{
			"action": "PROVIDER_RUNNING_LATE", "appointmentId": v.id, "delayMinutes": 5 * (1 + v.rng.IntN(4)),
		})
		if err != nil {
			return err
		}
	}
	select {
	case <-v.provider.room:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := v.join(ctx); err != nil {
		v.provider.room <- struct{}{}
		return err
	}
	return nil
}

func (v *visit) join(ctx context.Context) error {
	if err := v.pause(ctx, 300*time.Millisecond, 1200*time.Millisecond); err != nil {
		return err
	}
	called := v.clinic.inbox.expect(v.patient.id, states.NoticeProviderReady, v.id)
	if err := v.provider.say(ctx, v.consultation(), message{
		"action": "PROVIDER_JOINED", "providerId": v.provider.id, "state": "connecting", "appointmentId": v.id,
	}); err != nil {
		return err
	}
	if err := v.await(ctx, called, "the patient was not called"); err != nil {
		return err
	}
	if err := v.pause(ctx, 500*time.Millisecond, 2*time.Second); err != nil {
		return err
	}
	return v.arrive(ctx)
}

func (v *visit) arrive(ctx context.Context) error {
	return v.patient.say(ctx, v.consultation(), message{"action": "PATIENT_JOINED", "patientId": v.patient.id, "appointmentId": v.id})
}

// talk is the consultation, until the provider ends it.
func (v *visit) talk(ctx context.Context) error {
	defer func() { v.provider.room <- struct{}{} }()
	begun := time.Now()
	if err := v.pause(ctx, 2*time.Second, 4*time.Second); err != nil {
		return err
	}
	switch v.kind {
	case dropped:
		if err := v.patient.say(ctx, v.consultation(), message{"action": "PATIENT_LEFT", "patientId": v.patient.id, "appointmentId": v.id}); err != nil {
			return err
		}
		if err := v.pause(ctx, 1500*time.Millisecond, 4*time.Second); err != nil {
			return err
		}
		if err := v.arrive(ctx); err != nil {
			return err
		}
	case emergency:
		if err := v.callForHelp(ctx); err != nil {
			return err
		}
	}
	if err := v.pause(ctx, 1*time.Second, 4*time.Second); err != nil {
		return err
	}
	return v.provider.say(ctx, v.consultation(), message{
		"action": "CONSULTATION_ENDED", "providerId": v.provider.id, "appointmentId": v.id,
		"summary": map[string]any{"duration": int(time.Since(begun).Minutes()) + 1, "followUpRequired": v.chance(25)},
	})
}

func (v *visit) callForHelp(ctx context.Context) error {
	by, severity := v.provider.person, "critical"
	if v.chance(40) {
		by = v.patient
	}
	if v.chance(30) {
		severity = "life-threatening"
	}
	if err := by.say(ctx, v.consultation(), message{
		"action": "EMERGENCY_REQUESTED", "severity": severity, "reasonCode": "chest-pain", "appointmentId": v.id,
	}); err != nil {
		return err
	}
	return v.pause(ctx, 4*time.Second, 8*time.Second)
}

func (v *visit) writeNotes(ctx context.Context) error {
	if err := v.pause(ctx, 1*time.Second, 4*time.Second); err != nil {
		return err
	}
	return v.provider.say(ctx, v.consultation(), message{"action": "NOTES_COMPLETED", "providerId": v.provider.id, "appointmentId": v.id})
}
