package scenario_test

import (
	"context"
	"testing"
	"time"

	"consultd/test/redis"
)

// Only the timers of the waiting room run.
const whileWaiting = `check_in_opens: 0s, no_show: 300ms, readiness: 1s, long_wait: [2500ms, 5s, 7500ms], wait_limit: 10s,
  connect_soft: 0s, connect_hard: 0s, provider_drop: 0s, patient_drop: 0s, both_absent: 0s, wrap_up_soft: 0s, wrap_up_hard: 0s`

// Patients who wait and nobody comes; patients who never come.
func TestTimersOfTheWaitingRoom(t *testing.T) {
	t.Parallel()
	h := open(t, build{timing: whileWaiting})
	h.tell(map[string]func(*story){
		"nobody comes for a patient whose device is not ready": func(s *story) {
			s.checksIn(s.asPatient(), M{"departmentId": s.department})
			s.queued("PATIENT_ADDED", M{"entry.status": "checked-in"})
			s.told(s.provider, "PATIENT_READY")
			s.went("checked-in")
			s.told(s.patient, "DEVICE_CHECK_NEEDED", M{"priority": "high"})
			s.told(s.patient, "QUEUE_DELAY", M{"level": 1, "priority": "normal"})
			s.told(s.provider, "PATIENT_WAITING", M{"level": 2, "priority": "high"})
			s.told(s.provider, "PATIENT_WAITING", M{"level": 3})
			s.queued("PATIENT_REMOVED", M{"reason": "left-without-being-seen"})
			s.told(s.patient, "VISIT_CANCELLED", M{"change": "left-without-being-seen"})
			s.told(s.provider, "SCHEDULE_CHANGE", M{"change": "left-without-being-seen"})
			s.went("left-without-being-seen", M{"cause": "TIMER_WAIT_LIMIT"})
			s.waitOrder("nobody waiting")
			s.nothingMore()
		},
		"a patient whose device is ready is not asked to check it": func(s *story) {
			s.waits()
			s.told(s.patient, "QUEUE_DELAY", M{"level": 1})
			s.told(s.provider, "PATIENT_WAITING", M{"level": 2})
			s.told(s.provider, "PATIENT_WAITING", M{"level": 3})
			s.queued("PATIENT_REMOVED", M{"reason": "left-without-being-seen"})
			s.told(s.patient, "VISIT_CANCELLED")
			s.told(s.provider, "SCHEDULE_CHANGE")
			s.went("left-without-being-seen")
			s.nothingMore()
		},
		"a booked patient does not come": func(s *story) {
			s.booked(200 * time.Millisecond)
			s.told(s.patient, "VISIT_NO_SHOW", M{"change": "no-show", "title": "Missed Appointment"})
			s.told(s.provider, "SCHEDULE_CHANGE", M{"change": "no-show"})
			s.went("no-show", M{"cause": "TIMER_NO_SHOW"})
			s.checksIn(s.asPatient())
			s.refused(s.patient, "PATIENT_CHECKED_IN", "VISIT_CLOSED")
			s.nothingMore()
		},
		"a booked patient who is cancelled is no no-show": func(s *story) {
			s.booked(time.Hour)
			s.atDesk(s.asBackend(), "APPOINTMENT_RESCHEDULED", M{"startsAt": inUTC(2 * time.Hour)})
			s.told(s.patient, "SCHEDULE_CHANGE")
			s.told(s.provider, "SCHEDULE_CHANGE")
			s.atDesk(s.asBackend(), "APPOINTMENT_CANCELLED")
			s.told(s.patient, "VISIT_CANCELLED")
			s.told(s.provider, "SCHEDULE_CHANGE")
			s.went("cancelled")
			if v := s.stored(); v != nil {
				for kind, timer := range v.Timers {
					if !timer.Due.IsZero() {
						s.t.Errorf("timer %s still runs", kind)
					}
				}
			}
			s.nothingMore()
		},
		"a booking that is moved nearer is a no-show at its new time": func(s *story) {
			s.booked(time.Hour)
			s.atDesk(s.asBackend(), "APPOINTMENT_RESCHEDULED", M{"startsAt": inUTC(100 * time.Millisecond)})
			s.told(s.patient, "SCHEDULE_CHANGE")
			s.told(s.provider, "SCHEDULE_CHANGE")
			s.told(s.patient, "VISIT_NO_SHOW")
			s.told(s.provider, "SCHEDULE_CHANGE", M{"change": "no-show"})
			s.went("no-show")
			s.nothingMore()
		},
	})
	h.judge()
}

// Only the timers of the consultation run.
const whileTalking = `check_in_opens: 0s, no_show: 0s, readiness: 0s, long_wait: [], wait_limit: 0s,
  connect_soft: 200ms, connect_hard: 600ms, provider_drop: 300ms, patient_drop: 500ms, both_absent: 400ms, wrap_up_soft: 200ms, wrap_up_hard: 600ms`

// Connections that do not come about, that break, and notes that nobody writes.
func TestTimersOfTheConsultation(t *testing.T) {
	t.Parallel()
	h := open(t, build{timing: whileTalking})
	// wrapUp is how a consultation ends whose notes nobody writes.
	wrapUp := func(s *story) {
		s.told(s.provider, "NOTES_DUE", M{"priority": "normal"})
		s.queued("PATIENT_REMOVED", M{"reason": "completed"})
		s.went("completed", M{"cause": "TIMER_WRAP_UP_HARD"})
		s.nothingMore()
	}
	h.tell(map[string]func(*story){
		"the patient does not connect and gets the place back": func(s *story) {
			s.waits()
			s.asNurse()(s.room(), M{
				"action": "PATIENT_CHECKED_IN", "appointmentId": s.appointment + "-2", "patientId": s.patient + "-2",
				"consultationId": "consultation." + s.provider + "." + s.patient + "-2", "departmentId": s.department, "deviceReady": true,
			})
			s.queued("PATIENT_ADDED")
			s.told(s.provider, "PATIENT_READY")
			s.providerSays(s.asProvider(), "PROVIDER_JOINED")
			s.queued("STATUS_UPDATED", M{"newStatus": "in-consultation"})
			s.told(s.patient, "PROVIDER_READY")
			s.went("connecting")
			s.told(s.patient, "PROVIDER_READY", M{"priority": "high"}) // called again
			s.queued("STATUS_UPDATED", M{"newStatus": "waiting", "updatedBy": "consultd"})
			s.told(s.provider, "PATIENT_NOT_CONNECTED")
			s.went("waiting", M{"from": "connecting", "cause": "TIMER_CONNECT_HARD"})
			s.waitOrder("the old place, before who came later", s.appointment, s.appointment+"-2")
			s.load(0)
			s.nothingMore()
		},
		"the patient is there but the provider's connection is not": func(s *story) {
			s.meets()
			s.patientSays(s.asPatient(), "PATIENT_LEFT")
			s.went("on-hold")
			s.went("wrapping-up", M{"cause": "TIMER_PATIENT_DROP"})
			wrapUp(s)
		},
		"the provider is called back until there": func(s *story) {
			s.meets()
			s.providerSays(s.asProvider(), "PROVIDER_LEFT")
			s.went("on-hold")
			s.told(s.provider, "PATIENT_WAITING", M{"priority": "critical"})
			s.told(s.provider, "PATIENT_WAITING", M{"priority": "critical"})
			s.told(s.provider, "PATIENT_WAITING", M{"priority": "critical"})
			s.patientSays(s.asPatient(), "PATIENT_LEFT") // gives up as well
			s.went("wrapping-up")
			s.claimAll("notification."+s.provider, "PATIENT_WAITING") // as often as it took the patient to leave
			wrapUp(s)
		},
		"a held visit that both leave is over": func(s *story) {
			s.meets()
			s.providerSays(s.asProvider(), "CONSULTATION_HELD")
			s.went("on-hold")
			s.patientSays(s.asPatient(), "PATIENT_LEFT")
			s.providerSays(s.asProvider(), "PROVIDER_LEFT")
			s.went("wrapping-up", M{"cause": "TIMER_BOTH_ABSENT"})
			wrapUp(s)
		},
		"a held visit whose patient leaves goes on being held": func(s *story) {
			s.meets()
			s.providerSays(s.asProvider(), "CONSULTATION_HELD")
			s.went("on-hold")
			s.patientSays(s.asPatient(), "PATIENT_LEFT")
			s.accepted("PATIENT_LEFT", 1)
			v := s.stored()
			for _, kind := range []string{"patient-drop", "both-absent", "provider-drop"} {
				if timer := v.Timers[timerKind(kind)]; !timer.Due.IsZero() {
					s.t.Errorf("timer %s runs", kind)
				}
			}
			s.nothingMore()
		},
		"notes in time need no reminder of the last kind": func(s *story) {
			s.meets()
			s.ends()
			s.went("wrapping-up")
			wrapUp(s)
			if v := s.stored(); v != nil && !v.NotesPending {
				s.t.Error("the notes are not marked as pending")
			}
		},
	})
	h.judge()
}

// While consultd is down, the timers of three patients become due. When it is back each of them is told once what matters by
// then, in due order, and nothing is said that was said before.
func TestTimersSurviveARestart(t *testing.T) {
	t.Parallel()
	h := open(t, build{
		timing: `check_in_opens: 0s, no_show: 1500ms, readiness: 1500ms, long_wait: [2s, 2200ms, 2400ms, 1h], wait_limit: 2h,
  connect_soft: 0s, connect_hard: 0s, provider_drop: 1500ms, patient_drop: 0s, both_absent: 0s, wrap_up_soft: 1500ms, wrap_up_hard: 1h`,
		paging: "  re_page: {critical: 1500ms}\n  failsafe_after: 100\n", manual: true,
	})
	d := h.run()
	h.listen()
	arriving, booked, held, wrapping, calling := h.story(t), h.story(t), h.story(t), h.story(t), h.story(t)
	booked.booked(100 * time.Millisecond)
	held.meets()
	held.providerSays(held.asProvider(), "PROVIDER_LEFT")
	held.went("on-hold")
	wrapping.meets()
	wrapping.ends()
	wrapping.went("wrapping-up")
	calling.raises(calling.asNurse(), M{})
	calling.announced("EMERGENCY_PAGED", M{"round": 1})
	calling.everybodyPaged(1)
	arriving.checksIn(arriving.asPatient(), M{"departmentId": arriving.department})
	arriving.queued("PATIENT_ADDED")
	arriving.told(arriving.provider, "PATIENT_READY")
	arriving.went("checked-in")
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	h.ear.catchUp(t)
	for _, s := range []*story{held, calling} { // called on until consultd went down
		s.claimAll("notification."+s.provider, "PATIENT_WAITING")
		s.claimAll("emergency."+s.department, "EMERGENCY_PAGED")
		for _, p := range s.onCall {
			s.claimAll("notification."+p, "EMERGENCY_ESCALATION")
			s.claimAll("page.sms."+p, "EMERGENCY_ESCALATION")
		}
	}
	h.awaitDue(t, 2500*time.Millisecond) // every one of the short timers
	h.run()

	arriving.told(arriving.patient, "DEVICE_CHECK_NEEDED")
	arriving.told(arriving.patient, "QUEUE_DELAY", M{"level": 1})
	arriving.told(arriving.provider, "PATIENT_WAITING", M{"level": 3}) // not once for each level that passed
	booked.told(booked.patient, "VISIT_NO_SHOW")
	booked.told(booked.provider, "SCHEDULE_CHANGE")
	booked.went("no-show")
	wrapping.told(wrapping.provider, "NOTES_DUE")
	for _, s := range []*story{arriving, booked, wrapping} {
		s.nothingMore()
	}
	held.told(held.provider, "PATIENT_WAITING")
	calling.announced("EMERGENCY_PAGED")
	held.providerSays(held.asProvider(), "PROVIDER_JOINED")
	held.went("in-progress")
	held.claimAll("notification."+held.provider, "PATIENT_WAITING")
	held.nothingMore()
	h.judge()
}

// Redis itself goes away and comes back while timers run: they fire, once, when it is back.
func TestTimersSurviveRedis(t *testing.T) {
	t.Parallel()
	b := build{timing: `check_in_opens: 0s, readiness: 1s, long_wait: [], wait_limit: 0s`}
	b.Redis = redis.Options{AppendOnly: true, AppendFsync: "always"}
	h := open(t, b)
	s := h.story(t)
	s.checksIn(s.asPatient(), M{"departmentId": s.department})
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("checked-in")
	h.clinic.Redis.Kill()
	after := time.Now().Add(time.Second)
	eventually(t, "the timer's time", func() (bool, string) { return time.Now().After(after), "" })
	if err := h.clinic.Redis.Restart(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	s.told(s.patient, "DEVICE_CHECK_NEEDED")
	s.nothingMore()
	h.judge()
}
