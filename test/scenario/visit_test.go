package scenario_test

import (
	"testing"
	"time"

	"consultd/test/clinic"
)

// The visits of an ordinary day: what happens, who is told what, and that nothing else is said.
func TestVisits(t *testing.T) {
	t.Parallel()
	h := open(t, build{})
	h.tell(map[string]func(*story){
		"a booked visit with apps, from booking to notes":                 aBookedVisitWithApps,
		"a booked visit over NATS, from booking to notes":                 aBookedVisitOverNATS,
		"a browser checks in and hears of its provider":                   aBrowserChecksIn,
		"a walk-in is taken in by a nurse":                                aWalkInWithANurse,
		"a walk-in without a department is told to name one":              aWalkInWithoutDepartment,
		"checking in too early is refused until check-in opens":           tooEarly,
		"a device that fails twice makes the visit a phone call":          aDeviceThatFails,
		"a device that fails once may be tried again":                     aDeviceThatRecovers,
		"the urgent go before the early, until told otherwise":            theUrgentGoFirst,
		"a patient hears that the provider runs late and keeps the place": runningLate,
		"a provider who comes and goes":                                   comingAndGoing,
		"a hold that the patient's return does not end":                   aHold,
		"both join in the other order":                                    patientFirst,
		"a visit that ends while connecting":                              endedWhileConnecting,
		"the backend writes the notes":                                    notesByTheBackend,
		"the patient cancels before the day":                              cancelledByPatient,
		"the provider cancels while the patient waits":                    cancelledByProvider,
		"the front desk cancels after check-in":                           cancelledByDesk,
		"a visit under way cannot be cancelled":                           notCancelledAnyMore,
		"a booking is moved":                                              rescheduledBeforeTheDay,
		"a waiting patient goes home for a new appointment":               rescheduledWhileWaiting,
		"a checked-in patient goes home for a new appointment":            rescheduledWhenCheckedIn,
		"a visit under way cannot be moved":                               notRescheduledAnyMore,
		"a patient gives up waiting":                                      givesUp,
		"the same two people meet again":                                  meetAgain,
		"a pair can have only one open visit":                             onePairOneVisit,
		"a message that comes twice over NATS is one":                     twiceOverNATS,
		"a message that comes twice over PubNub is one":                   twiceOverPubNub,
		"another person's message with the same id is another message":    sameIDOfAnother,
		"the same id on another channel is another message":               sameIDElsewhere,
		"a message that comes again after many others":                    lateRepeat,
	})
	h.judge()
}

func aBookedVisitWithApps(s *story) {
	doctor := s.clinic.App(s.provider, "notification."+s.provider)
	person := s.clinic.App(s.patient, "notification."+s.patient, s.visit())
	s.booked(10 * time.Minute)

	s.checksIn(person.Say)
	s.queued("PATIENT_ADDED", M{
		"entry.id": s.appointment, "entry.patientId": s.patient, "entry.providerId": s.provider,
		"entry.departmentId": s.department, "entry.status": "checked-in", "entry.priority": "normal",
	})
	s.told(s.provider, "PATIENT_READY", M{"title": "Patient Checked In", "priority": "high", "appointmentId": s.appointment, "consultationId": s.visit()})
	s.went("checked-in", M{"from": "scheduled", "cause": "PATIENT_CHECKED_IN"})
	doctor.Await("PATIENT_READY in the provider's app", clinic.With("notification."+s.provider, M{"type": "PATIENT_READY", "appointmentId": s.appointment}))
	s.waitOrder("a place in the waiting room", s.appointment)

	s.atDesk(person.Say, "PATIENT_READY_CONFIRMED", M{"deviceReady": true})
	s.queued("STATUS_UPDATED", M{"queueEntryId": s.appointment, "newStatus": "waiting", "updatedBy": s.patient})
	s.went("waiting")

	s.providerSays(doctor.Say, "PROVIDER_JOINED", M{"state": "connecting"})
	s.queued("STATUS_UPDATED", M{"newStatus": "in-consultation", "updatedBy": s.provider})
	s.told(s.patient, "PROVIDER_READY", M{"title": "Your Provider is Ready", "priority": "high"})
	s.went("connecting")
	person.Await("PROVIDER_READY in the patient's app", clinic.With("notification."+s.patient, M{"type": "PROVIDER_READY"}))
	s.waitOrder("an empty waiting room")

	s.patientSays(person.Say, "PATIENT_JOINED")
	s.went("in-progress")
	person.Await("the state in the patient's app", clinic.With(s.visit(), M{"action": "STATE_CHANGED", "state": "in-progress"}))

	s.providerSays(doctor.Say, "CONSULTATION_ENDED", M{"summary": M{"duration": 12, "followUpRequired": true}})
	s.went("wrapping-up")

	s.providerSays(doctor.Say, "NOTES_COMPLETED")
	s.queued("PATIENT_REMOVED", M{"queueEntryId": s.appointment, "reason": "completed"})
	s.went("completed")
	s.nothingMore()
}

func aBookedVisitOverNATS(s *story) {
	s.booked(5*time.Minute, M{"priority": "urgent", "visitReasonCode": "follow-up"})
	s.checksIn(s.via("front-desk:desk-1"))
	s.queued("PATIENT_ADDED", M{"entry.priority": "urgent", "entry.status": "checked-in"})
	s.told(s.provider, "PATIENT_READY")
	s.went("checked-in")
	s.atDesk(s.asNurse(), "PATIENT_READY_CONFIRMED", M{"deviceReady": true})
	s.queued("STATUS_UPDATED", M{"newStatus": "waiting", "updatedBy": "nurse-lee"})
	s.went("waiting")
	s.providerSays(s.asBackend(), "PROVIDER_JOINED") // the backend may speak for the provider
	s.queued("STATUS_UPDATED", M{"newStatus": "in-consultation"})
	s.told(s.patient, "PROVIDER_READY")
	s.went("connecting")
	s.patientSays(s.asBackend(), "PATIENT_JOINED")
	s.went("in-progress", M{"cause": "PATIENT_JOINED"})
	s.ends()
	s.went("wrapping-up")
	s.providerSays(s.asProvider(), "NOTES_COMPLETED")
	s.queued("PATIENT_REMOVED", M{"reason": "completed"})
	s.went("completed")
	s.nothingMore()
}

func aBrowserChecksIn(s *story) {
	browser := s.javascript(s.patient)
	if err := browser.Subscribe(s.t.Context(), "notification."+s.patient); err != nil {
		s.t.Fatal(err)
	}
	speak := func(channel string, body M) {
		stamp(body)
		if _, err := browser.Publish(s.t.Context(), channel, body); err != nil {
			s.t.Fatal(err)
		}
	}
	s.booked(time.Minute)
	s.checksIn(speak, M{"deviceReady": true})
	s.queued("PATIENT_ADDED", M{"entry.status": "waiting"})
	s.told(s.provider, "PATIENT_READY")
	s.went("waiting")
	s.providerSays(s.app(s.provider), "PROVIDER_JOINED")
	s.queued("STATUS_UPDATED")
	s.told(s.patient, "PROVIDER_READY")
	s.went("connecting")
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case m := <-browser.Messages():
		if m.Error != "" || m.Channel != "notification."+s.patient || at(decoded(s.t, m.Payload), "type") != "PROVIDER_READY" {
			s.t.Errorf("the browser got %+v: %s", m, m.Payload)
		}
	case <-timer.C:
		s.t.Fatal("the browser heard nothing")
	}
	s.patientSays(speak, "PATIENT_JOINED")
	s.went("in-progress")
	s.nothingMore()
}

func aWalkInWithANurse(s *story) {
	s.checksIn(s.asNurse(), M{"departmentId": s.department, "priority": "urgent", "interpreterNeeded": true})
	s.queued("PATIENT_ADDED", M{"entry.priority": "urgent", "entry.status": "checked-in"})
	s.told(s.provider, "PATIENT_READY")
	s.went("checked-in")
	s.waitOrder("a place", s.appointment)
	s.nothingMore()
}

func aWalkInWithoutDepartment(s *story) {
	s.checksIn(s.app(s.patient))
	s.refused(s.patient, "PATIENT_CHECKED_IN", "MISSING_DEPARTMENT")
	s.waits()
	s.nothingMore()
}

func tooEarly(s *story) {
	s.booked(3 * time.Hour)
	s.checksIn(s.asPatient())
	s.refused(s.patient, "PATIENT_CHECKED_IN", "TOO_EARLY")
	s.atDesk(s.asBackend(), "APPOINTMENT_RESCHEDULED", M{"startsAt": inUTC(10 * time.Minute)})
	s.told(s.patient, "SCHEDULE_CHANGE")
	s.told(s.provider, "SCHEDULE_CHANGE")
	s.checksIn(s.asPatient())
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("checked-in")
	s.nothingMore()
}

func aDeviceThatFails(s *story) {
	s.checksIn(s.asPatient(), M{"departmentId": s.department})
	s.queued("PATIENT_ADDED", M{"entry.status": "checked-in"})
	s.told(s.provider, "PATIENT_READY")
	s.went("checked-in")
	s.atDesk(s.app(s.patient), "PATIENT_READY_CONFIRMED", M{"deviceReady": false})
	s.accepted("PATIENT_READY_CONFIRMED", 1)
	s.atDesk(s.app(s.patient), "PATIENT_READY_CONFIRMED", M{"deviceReady": false})
	s.queued("STATUS_UPDATED", M{"newStatus": "waiting"})
	s.went("waiting")
	if v := s.stored(); v == nil || v.Modality != "phone" {
		s.t.Errorf("the visit is %+v, want it by phone", v)
	}
	s.nothingMore()
}

func aDeviceThatRecovers(s *story) {
	s.checksIn(s.asPatient(), M{"departmentId": s.department})
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("checked-in")
	s.atDesk(s.asPatient(), "PATIENT_READY_CONFIRMED", M{"deviceReady": false})
	s.atDesk(s.asPatient(), "PATIENT_READY_CONFIRMED", M{"deviceReady": true})
	s.queued("STATUS_UPDATED", M{"newStatus": "waiting"})
	s.went("waiting")
	if v := s.stored(); v == nil || v.Modality != "video" {
		s.t.Errorf("the visit is %+v, want it by video", v)
	}
	s.nothingMore()
}

// Four patients of one provider, in the order in which they arrive.
func theUrgentGoFirst(s *story) {
	arrive := func(appointment, patient string, extra M) {
		s.asNurse()(s.room(), with(M{
			"action": "PATIENT_CHECKED_IN", "appointmentId": appointment, "patientId": patient, "deviceReady": true,
			"consultationId": "consultation." + s.provider + "." + patient, "departmentId": s.department,
		}, []M{extra}))
		s.queued("PATIENT_ADDED", M{"entry.id": appointment})
		s.told(s.provider, "PATIENT_READY", M{"appointmentId": appointment})
	}
	rank := func(appointment, priority string) {
		s.asNurse()(s.room(), M{"action": "PRIORITY_CHANGED", "appointmentId": appointment, "priority": priority})
		s.queued("STATUS_UPDATED", M{"queueEntryId": appointment, "newStatus": "waiting", "priority": priority})
	}
	first, second, third, fourth := s.appointment+"-1", s.appointment+"-2", s.appointment+"-3", s.appointment+"-4"
	arrive(first, s.patient+"-1", M{})
	arrive(second, s.patient+"-2", M{"priority": "urgent"})
	arrive(third, s.patient+"-3", M{"priority": "follow-up"})
	arrive(fourth, s.patient+"-4", M{})
	s.waitOrder("priority, then arrival", second, first, fourth, third)
	rank(fourth, "emergency")
	s.waitOrder("the emergency before all", fourth, second, first, third)
	rank(third, "urgent")
	s.waitOrder("arrival within one priority", fourth, second, third, first)
	rank(fourth, "normal")
	s.waitOrder("back behind whoever came earlier", second, third, first, fourth)
	s.asProvider()("consultation."+s.provider+"."+s.patient+"-2", M{"action": "PROVIDER_JOINED", "providerId": s.provider})
	s.queued("STATUS_UPDATED", M{"queueEntryId": second, "newStatus": "in-consultation"})
	s.next("notification."+s.patient+"-2", "type", "PROVIDER_READY", nil)
	s.waitOrder("whoever is with the provider waits no more", third, first, fourth)
	s.load(1)
	s.nothingMore()
}

func runningLate(s *story) {
	s.booked(5 * time.Minute)
	s.atDesk(s.app(s.provider), "PROVIDER_RUNNING_LATE", M{"delayMinutes": 20})
	s.told(s.patient, "PROVIDER_RUNNING_LATE", M{"delayMinutes": 20, "title": "Your Provider is Running Late"})
	s.checksIn(s.asPatient(), M{"deviceReady": true})
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("waiting")
	s.atDesk(s.via("front-desk:desk-1"), "PROVIDER_RUNNING_LATE", M{"delayMinutes": 35})
	s.told(s.patient, "PROVIDER_RUNNING_LATE", M{"delayMinutes": 35})
	s.waitOrder("the same place", s.appointment)
	s.nothingMore()
}

func comingAndGoing(s *story) {
	s.waits()
	s.providerSays(s.asProvider(), "PROVIDER_JOINED")
	s.queued("STATUS_UPDATED", M{"newStatus": "in-consultation"})
	s.told(s.patient, "PROVIDER_READY")
	s.went("connecting")
	s.providerSays(s.asProvider(), "PROVIDER_JOINED") // a second device: nobody is told again
	s.patientSays(s.asPatient(), "PATIENT_JOINED")
	s.went("in-progress")
	s.load(1)
	s.providerSays(s.asProvider(), "PROVIDER_LEFT")
	s.went("on-hold", M{"cause": "PROVIDER_LEFT"})
	s.providerSays(s.asProvider(), "PROVIDER_JOINED")
	s.went("in-progress", M{"from": "on-hold"})
	s.patientSays(s.asPatient(), "PATIENT_LEFT")
	s.went("on-hold", M{"cause": "PATIENT_LEFT"})
	s.providerSays(s.asProvider(), "PROVIDER_LEFT")
	s.patientSays(s.asPatient(), "PATIENT_JOINED") // the provider is still missing
	s.providerSays(s.asProvider(), "PROVIDER_JOINED")
	s.went("in-progress")
	s.ends()
	s.went("wrapping-up")
	s.load(0)
	s.nothingMore()
}

func aHold(s *story) {
	s.meets()
	s.providerSays(s.app(s.provider), "CONSULTATION_HELD")
	s.went("on-hold", M{"cause": "CONSULTATION_HELD"})
	s.patientSays(s.asPatient(), "PATIENT_LEFT")
	s.patientSays(s.asPatient(), "PATIENT_JOINED") // still held
	s.providerSays(s.asProvider(), "CONSULTATION_RESUMED")
	s.went("in-progress", M{"cause": "CONSULTATION_RESUMED"})
	s.ends()
	s.went("wrapping-up")
	s.nothingMore()
}

func patientFirst(s *story) {
	s.waits()
	s.patientSays(s.app(s.patient), "PATIENT_JOINED")
	s.accepted("PATIENT_JOINED", 1)
	s.providerSays(s.app(s.provider), "PROVIDER_JOINED")
	s.queued("STATUS_UPDATED", M{"newStatus": "in-consultation"})
	s.told(s.patient, "PROVIDER_READY")
	s.went("in-progress", M{"from": "waiting", "cause": "PROVIDER_JOINED"})
	s.nothingMore()
}

func endedWhileConnecting(s *story) {
	s.waits()
	s.providerSays(s.asProvider(), "PROVIDER_JOINED")
	s.queued("STATUS_UPDATED")
	s.told(s.patient, "PROVIDER_READY")
	s.went("connecting")
	s.ends()
	s.went("wrapping-up", M{"from": "connecting"})
	s.load(0)
	s.nothingMore()
}

func notesByTheBackend(s *story) {
	s.meets()
	s.ends()
	s.went("wrapping-up")
	s.providerSays(s.asBackend(), "NOTES_COMPLETED")
	s.queued("PATIENT_REMOVED", M{"reason": "completed"})
	s.went("completed")
	s.providerSays(s.asProvider(), "PROVIDER_JOINED")
	s.refused(s.provider, "PROVIDER_JOINED", "UNKNOWN_VISIT") // the pair's channel means no visit any more
	s.nothingMore()
}

func cancelledByPatient(s *story) {
	s.booked(time.Hour)
	s.atDesk(s.app(s.patient), "APPOINTMENT_CANCELLED", M{"reasonCode": "feels-better"})
	s.told(s.patient, "VISIT_CANCELLED", M{"change": "cancelled", "priority": "high"})
	s.told(s.provider, "SCHEDULE_CHANGE", M{"change": "cancelled"})
	s.went("cancelled", M{"from": "scheduled"})
	s.checksIn(s.asPatient())
	s.refused(s.patient, "PATIENT_CHECKED_IN", "VISIT_CLOSED")
	s.nothingMore()
}

func cancelledByProvider(s *story) {
	s.waits()
	s.atDesk(s.app(s.provider), "APPOINTMENT_CANCELLED")
	s.queued("PATIENT_REMOVED", M{"reason": "cancelled"})
	s.told(s.patient, "VISIT_CANCELLED")
	s.told(s.provider, "SCHEDULE_CHANGE", M{"change": "cancelled"})
	s.went("cancelled", M{"from": "waiting"})
	s.waitOrder("nobody waiting")
	s.nothingMore()
}

func cancelledByDesk(s *story) {
	s.checksIn(s.asPatient(), M{"departmentId": s.department})
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("checked-in")
	s.atDesk(s.via("front-desk:desk-1"), "APPOINTMENT_CANCELLED", M{"reasonCode": "clinic-closed"})
	s.queued("PATIENT_REMOVED", M{"reason": "cancelled"})
	s.told(s.patient, "VISIT_CANCELLED")
	s.told(s.provider, "SCHEDULE_CHANGE")
	s.went("cancelled", M{"from": "checked-in"})
	s.nothingMore()
}

func notCancelledAnyMore(s *story) {
	s.meets()
	s.atDesk(s.asPatient(), "APPOINTMENT_CANCELLED")
	s.refused(s.patient, "APPOINTMENT_CANCELLED", "WRONG_STATE")
	s.ends()
	s.went("wrapping-up")
	s.nothingMore()
}

func rescheduledBeforeTheDay(s *story) {
	s.booked(2 * time.Hour)
	s.atDesk(s.app(s.provider), "APPOINTMENT_RESCHEDULED", M{"startsAt": inUTC(5 * time.Minute)})
	s.told(s.patient, "SCHEDULE_CHANGE", M{"change": "rescheduled", "priority": "high"})
	s.told(s.provider, "SCHEDULE_CHANGE", M{"change": "rescheduled"})
	s.checksIn(s.asPatient(), M{"deviceReady": true}) // the same visit, at its new time
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("waiting", M{"from": "scheduled"})
	s.nothingMore()
}

func rescheduledWhileWaiting(s *story) {
	s.waits()
	s.atDesk(s.app(s.patient), "APPOINTMENT_RESCHEDULED", M{"startsAt": inUTC(24 * time.Hour)})
	s.queued("PATIENT_REMOVED", M{"reason": "rescheduled"})
	s.told(s.patient, "SCHEDULE_CHANGE")
	s.told(s.provider, "SCHEDULE_CHANGE")
	s.went("rescheduled", M{"from": "waiting"})
	s.waitOrder("nobody waiting")
	s.nothingMore()
}

func rescheduledWhenCheckedIn(s *story) {
	s.checksIn(s.asPatient(), M{"departmentId": s.department})
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("checked-in")
	s.atDesk(s.asNurse(), "APPOINTMENT_RESCHEDULED", M{"startsAt": inUTC(24 * time.Hour)})
	s.queued("PATIENT_REMOVED", M{"reason": "rescheduled"})
	s.told(s.patient, "SCHEDULE_CHANGE")
	s.told(s.provider, "SCHEDULE_CHANGE")
	s.went("rescheduled", M{"from": "checked-in"})
	s.nothingMore()
}

func notRescheduledAnyMore(s *story) {
	s.meets()
	s.atDesk(s.asBackend(), "APPOINTMENT_RESCHEDULED", M{"startsAt": inUTC(time.Hour)})
	s.refused("scheduler", "APPOINTMENT_RESCHEDULED", "WRONG_STATE")
	s.providerSays(s.asProvider(), "PROVIDER_LEFT")
	s.went("on-hold")
	s.nothingMore()
}

func givesUp(s *story) {
	s.waits()
	s.atDesk(s.app(s.patient), "PATIENT_LEFT")
	s.queued("PATIENT_REMOVED", M{"reason": "left-without-being-seen"})
	s.told(s.provider, "SCHEDULE_CHANGE", M{"change": "left-without-being-seen"})
	s.went("left-without-being-seen")
	s.waitOrder("nobody waiting")
	s.nothingMore()
}

func meetAgain(s *story) {
	s.meets()
	s.ends()
	s.went("wrapping-up")
	s.providerSays(s.asProvider(), "NOTES_COMPLETED")
	s.queued("PATIENT_REMOVED")
	s.went("completed")
	s.nextAppointment()
	s.meets()
	s.nothingMore()
}

func onePairOneVisit(s *story) {
	s.waits()
	s.nextAppointment()
	s.walksIn(s.asPatient())
	s.refused(s.patient, "PATIENT_CHECKED_IN", "PAIR_BUSY")
	s.nothingMore()
}

func twiceOverNATS(s *story) {
	for range 3 {
		s.walksIn(s.asPatient(), M{"id": "check-in-1"})
	}
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("waiting")
	s.nothingMore()
	s.decided("PATIENT_CHECKED_IN", 1)
}

func twiceOverPubNub(s *story) {
	app, browser := s.app(s.patient), s.browser(s.patient)
	s.walksIn(app, M{"id": "check-in-1"})
	s.walksIn(browser, M{"id": "check-in-1"}) // the same person, on another device that sends what the first one sent
	s.walksIn(app, M{"id": "check-in-1"})
	s.atDesk(app, "PATIENT_LEFT", M{"id": "leave-1"})
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("waiting")
	s.queued("PATIENT_REMOVED")
	s.told(s.provider, "SCHEDULE_CHANGE")
	s.went("left-without-being-seen")
	s.nothingMore()
	s.decided("PATIENT_CHECKED_IN", 1)
}

func sameIDOfAnother(s *story) {
	s.waits(M{"id": "m-1"})
	s.atDesk(s.via("patient:impostor"), "PATIENT_LEFT", M{"id": "m-2"})
	s.refused("impostor", "WAITING_ROOM_LEFT", "WRONG_ACTOR")
	s.atDesk(s.asNurse(), "PRIORITY_CHANGED", M{"id": "m-1", "priority": "urgent"}) // the patient's id, borrowed
	s.queued("STATUS_UPDATED", M{"priority": "urgent"})
	s.atDesk(s.asPatient(), "PATIENT_LEFT", M{"id": "m-2"}) // not taken for the impostor's
	s.queued("PATIENT_REMOVED")
	s.told(s.provider, "SCHEDULE_CHANGE")
	s.went("left-without-being-seen")
	s.nothingMore()
}

func sameIDElsewhere(s *story) {
	s.waits(M{"id": "m-1"})
	s.patientSays(s.asPatient(), "PATIENT_JOINED", M{"id": "m-1"})
	s.providerSays(s.asProvider(), "PROVIDER_JOINED", M{"id": "m-1"})
	s.queued("STATUS_UPDATED", M{"newStatus": "in-consultation"})
	s.told(s.patient, "PROVIDER_READY")
	s.went("in-progress")
	s.nothingMore()
}

func lateRepeat(s *story) {
	s.walksIn(s.asPatient(), M{"id": "check-in-1"})
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("waiting")
	for i := range 20 {
		priority := []string{"urgent", "normal"}[i%2]
		s.atDesk(s.asNurse(), "PRIORITY_CHANGED", M{"priority": priority})
		s.queued("STATUS_UPDATED", M{"priority": priority})
	}
	s.walksIn(s.asPatient(), M{"id": "check-in-1"})
	s.nothingMore()
	s.decided("PATIENT_CHECKED_IN", 1)
}
