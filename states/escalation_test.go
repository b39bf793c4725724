package states_test

import (
	"slices"
	"testing"
	"time"

	"consultd/states"
)

var (
	asFirst  = states.Actor{ID: "dr-a", Role: states.RoleProvider}
	asSecond = states.Actor{ID: "dr-b"} // the on-call source knows people whom the directory does not
	asChief  = states.Actor{ID: "chief", Role: states.RoleOnCall}
)

// raised begins a story in which a nurse raised a critical emergency and the list was paged.
func raised(t *testing.T) *story {
	t.Helper()
	return anEscalation(t).does(asNurse, states.EmergencyEscalation, severity(states.SeverityCritical))
}

// asked begins a story in which the on-call source has been asked.
func asked(t *testing.T) *story {
	t.Helper()
	s := anEscalation(t)
	s.rules.Paging.Ask = true
	return s.does(asNurse, states.EmergencyEscalation, severity(states.SeverityCritical))
}

func onCall(users ...string) func(*states.Event) {
	return func(ev *states.Event) {
		ev.Source = states.SourceConsultd
		ev.OnCall = states.OnCallAnswer{Users: users, Origin: "http"}
	}
}

var asSystem = states.Actor{ID: "consultd", Role: states.RoleSystem}

func TestAnEmergencyFromPageToEnd(t *testing.T) {
	s := anEscalation(t)
	s.does(asNurse, states.EmergencyEscalation, severity(states.SeverityLifeThreatening), func(ev *states.Event) {
		ev.Reason = states.NewPHI("collapsed")
		ev.ReasonCode = "collapse"
	}).gives(`
		none -> waiting
		emergency cardiology EMERGENCY_PAGED critical [round:1 users:2]
		notify dr-a EMERGENCY_ESCALATION critical [round:1]
		page dr-a EMERGENCY_ESCALATION by sms critical [round:1]
		notify dr-b EMERGENCY_ESCALATION critical [round:1]
		page dr-b EMERGENCY_ESCALATION by sms critical [round:1]
		arm re-page #1 in 30s
		audit EMERGENCY_ESCALATION_TRIGGERED EMERGENCY_ESCALATION critical`)
	if s.record.Escalation.Reason.Reveal() != "collapsed" {
		t.Fatal("the reason is lost")
	}
	s.wait(10*time.Second).does(asSecond, states.EmergencyAccepted, claiming("dr-b")).gives(`
		waiting -> accepted
		emergency cardiology EMERGENCY_ACCEPTED critical [userId:dr-b]
		notify dr-a EMERGENCY_TAKEN high [acceptedBy:dr-b]
		drop re-page #1
		audit ESCALATION_ACKNOWLEDGED EMERGENCY_ACCEPTED critical`)
	s.does(asFirst, states.EmergencyAccepted).refused(states.AlreadyAccepted)
	s.wait(time.Minute).does(asSecond, states.EmergencyAttended).gives(`
		accepted -> attended
		emergency cardiology EMERGENCY_ATTENDED critical [userId:dr-b]
		audit ESCALATION_STATE_CHANGED EMERGENCY_ATTENDED critical`)
	s.wait(time.Hour).does(asSecond, states.EmergencyResolved, func(ev *states.Event) { ev.OutcomeCode = "stable" }).gives(`
		attended -> closed
		emergency cardiology EMERGENCY_CLOSED critical [outcome:resolved]
		notify dr-a EMERGENCY_CLOSED high [outcome:resolved]
		notify dr-b EMERGENCY_CLOSED high [outcome:resolved]
		audit ESCALATION_STATE_CHANGED EMERGENCY_RESOLVED critical
		expire`)
	if e := s.record.Escalation; e.Outcome != "stable" || e.AcceptedAt.Sub(e.TriggeredAt) != 10*time.Second || !e.ClosedAt.Equal(s.now) {
		t.Fatalf("the escalation remembers %+v", e)
	}
	s.does(asFirst, states.EmergencyAccepted).refused(states.ClosedEscalation)
}

func TestRaisingTwice(t *testing.T) {
	raised(t).does(asPatient, states.EmergencyEscalation).refused(states.AlreadyRaised)
}

// A client that counts its emergencies from one again must not be told that its emergency is over already.
func TestAnEmergencyUnderTheIDOfAClosedOne(t *testing.T) {
	s := raised(t).does(asFirst, states.EmergencyRejected).does(asSecond, states.EmergencyAccepted).does(asSecond, states.EmergencyResolved)
	version, chain := s.record.Version, s.record.Chain.Seq
	s.wait(time.Hour).does(asNurse, states.EmergencyEscalation, severity(states.SeverityUrgent)).gives(`
		none -> waiting
		emergency cardiology EMERGENCY_PAGED critical [round:1 users:2]
		notify dr-a EMERGENCY_ESCALATION critical [round:1]
		page dr-a EMERGENCY_ESCALATION by sms critical [round:1]
		notify dr-b EMERGENCY_ESCALATION critical [round:1]
		page dr-b EMERGENCY_ESCALATION by sms critical [round:1]
		arm re-page #2 in 3m0s
		audit EMERGENCY_ESCALATION_TRIGGERED EMERGENCY_ESCALATION critical`)
	if e := s.record.Escalation; e.ID != escalation || e.AcceptedBy != "" || len(e.Rejected) > 0 || !e.ClosedAt.IsZero() || !e.TriggeredAt.Equal(s.now) {
		t.Fatalf("the new emergency inherits from the old one: %+v", e)
	}
	if s.record.Version != version+1 || s.record.Chain.Seq <= chain {
		t.Fatal("the record begins anew, and its audit chain with it")
	}
	s.does(asSystem, states.TimerFired, timer(s.record.ID, states.TimerRePage, 1)).refused(states.StaleTimer)
}

func TestAnEmergencyAfterTheEndOfAnotherIsANewOne(t *testing.T) {
	s := raised(t).does(asBackend, states.EmergencyResolved).does(asPatient, states.EmergencyEscalation)
	e := s.record.Escalation
	if s.last.Refusal != nil || s.last.From != states.StateNone || e.State != states.EscalationWaiting || e.Round != 1 || e.AcceptedBy != "" {
		t.Fatalf("the same id again: %s, %+v", summary(s.last, s.now), e)
	}
}

func TestAnybodyMayRaiseAnEmergency(t *testing.T) {
	for _, who := range []states.Actor{asPatient, asProvider, asNurse, asBackend, asStranger, {ID: "x", Role: "no-such-role"}} {
		s := anEscalation(t).does(who, states.EmergencyEscalation, claiming("somebody-else"), func(ev *states.Event) { ev.Said = ev.At.Add(-time.Hour * 24) })
		if s.last.Refusal != nil || s.record.Escalation.Severity != states.SeverityCritical || s.record.Escalation.RaisedBy != who {
			t.Errorf("%v: %s", who, summary(s.last, s.now))
		}
	}
	anEscalation(t).does(asNurse, states.EmergencyEscalation, func(ev *states.Event) { ev.Department = "" }).refused(states.MissingDepartment)
}

func TestTheOnCallSourceIsAsked(t *testing.T) {
	t.Run("and answers", func(t *testing.T) {
		s := asked(t).gives(`
			none -> triggered
			ask-on-call cardiology ask-on-call critical
			arm roster #1 in 2s
			audit EMERGENCY_ESCALATION_TRIGGERED EMERGENCY_ESCALATION critical`)
		s.wait(300*time.Millisecond).does(asSystem, states.OnCallAnswered, onCall("dr-x", "dr-y", "dr-x", "")).gives(`
			triggered -> waiting
			emergency cardiology EMERGENCY_PAGED critical [round:1 users:2]
			notify dr-x EMERGENCY_ESCALATION critical [round:1]
			page dr-x EMERGENCY_ESCALATION by sms critical [round:1]
			notify dr-y EMERGENCY_ESCALATION critical [round:1]
			page dr-y EMERGENCY_ESCALATION by sms critical [round:1]
			drop roster #1
			arm re-page #1 in 1m0s
			audit ESCALATION_STATE_CHANGED ON_CALL_ANSWERED critical`)
	})
	t.Run("and knows nobody", func(t *testing.T) {
		asked(t).does(asSystem, states.OnCallAnswered, onCall()).gives(`
			triggered -> waiting
			emergency cardiology EMERGENCY_PAGED critical [round:1 users:1]
			notify chief EMERGENCY_ESCALATION critical [round:1]
			page chief EMERGENCY_ESCALATION by sms critical [round:1]
			drop roster #1
			arm re-page #1 in 1m0s
			audit ESCALATION_STATE_CHANGED ON_CALL_ANSWERED critical`)
	})
	t.Run("and does not answer in time", func(t *testing.T) {
		s := asked(t).fires(states.TimerRoster).gives(`
			triggered -> waiting
			emergency cardiology EMERGENCY_PAGED critical [round:1 users:3]
			notify dr-a EMERGENCY_ESCALATION critical [round:1]
			page dr-a EMERGENCY_ESCALATION by sms critical [round:1]
			notify dr-b EMERGENCY_ESCALATION critical [round:1]
			page dr-b EMERGENCY_ESCALATION by sms critical [round:1]
			notify chief EMERGENCY_ESCALATION critical [round:1]
			page chief EMERGENCY_ESCALATION by sms critical [round:1]
			arm re-page #1 in 1m0s
			audit ESCALATION_STATE_CHANGED TIMER_ROSTER critical`)
		s.does(asSystem, states.OnCallAnswered, onCall("dr-b", "dr-x")).gives(`
			waiting
			emergency cardiology EMERGENCY_PAGED critical [round:1 users:1]
			notify dr-x EMERGENCY_ESCALATION critical [round:1]
			page dr-x EMERGENCY_ESCALATION by sms critical [round:1]
			audit EVENT_ACCEPTED ON_CALL_ANSWERED critical`)
		s.does(asSystem, states.OnCallAnswered, onCall("dr-x")).gives(`
			waiting
			audit EVENT_ACCEPTED ON_CALL_ANSWERED critical`)
		s.fires(states.TimerRePage)
		if got := s.record.Escalation.Round; got != 2 || len(s.last.Effects) != 1+4*2 {
			t.Fatalf("round %d, %s", got, summary(s.last, s.now))
		}
	})
	t.Run("and is overtaken by somebody on call", func(t *testing.T) {
		s := asked(t).does(states.Actor{ID: "dr-z", Role: states.RoleOnCall}, states.EmergencyAccepted).gives(`
			triggered -> accepted
			emergency cardiology EMERGENCY_ACCEPTED critical [userId:dr-z]
			drop roster #1
			audit ESCALATION_ACKNOWLEDGED EMERGENCY_ACCEPTED critical`)
		s.does(asSystem, states.OnCallAnswered, onCall("dr-x")).refused(states.WrongState)
	})
	t.Run("but only the daemon brings the answer", func(t *testing.T) {
		asked(t).does(asBackend, states.OnCallAnswered, onCall("mallory")).refused(states.RoleNotAllowed)
	})
}

func TestAPageThatNobodyAnswersIsRepeatedForEver(t *testing.T) {
	s := raised(t)
	s.fires(states.TimerRePage).gives(`
		waiting
		emergency cardiology EMERGENCY_PAGED critical [round:2 users:2]
		notify dr-a EMERGENCY_ESCALATION critical [round:2]
		page dr-a EMERGENCY_ESCALATION by sms critical [round:2]
		notify dr-b EMERGENCY_ESCALATION critical [round:2]
		page dr-b EMERGENCY_ESCALATION by sms critical [round:2]
		arm re-page #2 in 1m0s
		audit EVENT_ACCEPTED TIMER_RE_PAGE critical`)
	s.fires(states.TimerRePage).gives(`
		waiting
		emergency cardiology EMERGENCY_PAGED critical [round:3 users:3]
		notify dr-a EMERGENCY_ESCALATION critical [round:3]
		page dr-a EMERGENCY_ESCALATION by sms critical [round:3]
		notify dr-b EMERGENCY_ESCALATION critical [round:3]
		page dr-b EMERGENCY_ESCALATION by sms critical [round:3]
		notify chief EMERGENCY_ESCALATION critical [round:3]
		page chief EMERGENCY_ESCALATION by sms critical [round:3]
		arm re-page #3 in 1m0s
		audit EVENT_ACCEPTED TIMER_RE_PAGE critical`)
	for round := 4; round < 50; round++ {
		s.fires(states.TimerRePage)
		if e := s.record.Escalation; e.Round != round || len(s.last.Effects) != 1+3*2 {
			t.Fatalf("round %d: %s", round, summary(s.last, s.now))
		}
	}
}

func TestRejections(t *testing.T) {
	s := raised(t)
	s.does(asFirst, states.EmergencyRejected).gives(`
		waiting
		emergency cardiology EMERGENCY_REJECTED critical [userId:dr-a]
		audit EVENT_ACCEPTED EMERGENCY_REJECTED critical`)
	s.does(asFirst, states.EmergencyRejected).gives(`
		waiting
		emergency cardiology EMERGENCY_REJECTED critical [userId:dr-a]
		audit EVENT_ACCEPTED EMERGENCY_REJECTED critical`)
	s.does(asSecond, states.EmergencyRejected).gives(`
		waiting
		emergency cardiology EMERGENCY_REJECTED critical [userId:dr-b]
		emergency cardiology EMERGENCY_PAGED critical [round:2 users:1]
		notify chief EMERGENCY_ESCALATION critical [round:2]
		page chief EMERGENCY_ESCALATION by sms critical [round:2]
		drop re-page #1
		arm re-page #2 in 1m0s
		audit EVENT_ACCEPTED EMERGENCY_REJECTED critical`)
	s.fires(states.TimerRePage)
	if got := recipients(s.last); !slices.Equal(got, []string{"chief"}) {
		t.Fatalf("round 3 pages %v", got)
	}
	s.does(asChief, states.EmergencyRejected)
	if got := recipients(s.last); !slices.Equal(got, []string{"dr-a", "dr-b", "chief"}) {
		t.Fatalf("when everybody has rejected, %v are paged", got)
	}
	s.does(asNurse, states.EmergencyRejected).refused(states.NotPaged)
	s.does(asBackend, states.EmergencyRejected, claiming("dr-q")).refused(states.NotPaged)
	s.does(asBackend, states.EmergencyRejected, claiming("dr-a"))
	if s.last.Refusal != nil {
		t.Fatal("a backend cannot pass a rejection on")
	}
	s.does(asFirst, states.EmergencyAccepted) // who rejected may think again
	if s.record.Escalation.AcceptedBy != "dr-a" {
		t.Fatal("the acceptance is lost")
	}
}

func recipients(d states.Decision) []string {
	var to []string
	for _, e := range d.Effects {
		if e.Kind == states.EffectNotify {
			to = append(to, e.To)
		}
	}
	return to
}

func TestNobodyToPage(t *testing.T) {
	s := anEscalation(t)
	s.rules.Paging = states.Paging{}
	s.does(asNurse, states.EmergencyEscalation).gives(`
		none -> waiting
		emergency cardiology EMERGENCY_PAGED critical [round:1 users:0]
		arm re-page #1 in 1m0s
		audit EMERGENCY_ESCALATION_TRIGGERED EMERGENCY_ESCALATION critical
		audit PAGE_NOBODY PAGE_NOBODY critical`)
	s.rules = testRules() // somebody corrects the rules
	s.fires(states.TimerRePage).gives(`
		waiting
		emergency cardiology EMERGENCY_PAGED critical [round:2 users:2]
		notify dr-a EMERGENCY_ESCALATION critical [round:2]
		page dr-a EMERGENCY_ESCALATION by sms critical [round:2]
		notify dr-b EMERGENCY_ESCALATION critical [round:2]
		page dr-b EMERGENCY_ESCALATION by sms critical [round:2]
		arm re-page #2 in 1m0s
		audit EVENT_ACCEPTED TIMER_RE_PAGE critical`)
}

func TestWhoMayAnswer(t *testing.T) {
	for _, c := range []struct {
		name string
		who  states.Actor
		kind states.Kind
		more func(*states.Event)
		code states.RefusalCode
	}{
		{"paged", asFirst, states.EmergencyAccepted, claiming("dr-a"), ""},
		{"paged, with no role", asSecond, states.EmergencyAccepted, claiming(""), ""},
		{"on call, not paged", asChief, states.EmergencyAccepted, claiming(""), ""},
		{"a backend for somebody", asBackend, states.EmergencyAccepted, claiming("dr-q"), ""},
		{"neither", asProvider, states.EmergencyAccepted, claiming(""), states.NotPaged},
		{"a stranger as somebody paged", asStranger, states.EmergencyAccepted, claiming("dr-a"), states.WrongActor},
		{"the patient", asPatient, states.EmergencyAttended, claiming(""), states.NotPaged},
		{"a nurse ends it", asNurse, states.EmergencyResolved, claiming(""), ""},
		{"the patient ends it", asPatient, states.EmergencyCancelled, claiming(""), states.RoleNotAllowed},
		{"a stranger lowers it", asStranger, states.EmergencySeverityChanged, severity(states.SeverityUrgent), states.RoleNotAllowed},
		{"a nurse raises it to nonsense", asNurse, states.EmergencySeverityChanged, severity("awful"), states.BadSeverity},
		{"another department", asFirst, states.EmergencyAccepted, func(ev *states.Event) { ev.Department = "oncology" }, states.UnknownEscalation},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := raised(t).does(c.who, c.kind, c.more)
			if c.code != "" {
				s.refused(c.code)
			} else if s.last.Refusal != nil {
				t.Fatalf("refused: %v", *s.last.Refusal)
			}
		})
	}
}

func TestUnknownEscalations(t *testing.T) {
	anEscalation(t).does(asFirst, states.EmergencyAccepted).refused(states.UnknownEscalation)
	s := anEscalation(t)
	s.record.ID = states.RecordID{Kind: states.KindDesk, ID: department}
	s.does(asFirst, states.EmergencyAccepted).refused(states.UnknownEscalation)
}

func TestComingWithoutAccepting(t *testing.T) {
	raised(t).does(asFirst, states.EmergencyAttended).gives(`
		waiting -> attended
		emergency cardiology EMERGENCY_ATTENDED critical [userId:dr-a]
		notify dr-b EMERGENCY_TAKEN high [acceptedBy:dr-a]
		drop re-page #1
		audit ESCALATION_STATE_CHANGED EMERGENCY_ATTENDED critical`)
}

func TestAFalseAlarm(t *testing.T) {
	asked(t).does(asNurse, states.EmergencyCancelled, func(ev *states.Event) { ev.ReasonCode = "pressed-by-mistake" }).gives(`
		triggered -> closed
		emergency cardiology EMERGENCY_CLOSED critical [outcome:cancelled]
		drop roster #1
		audit ESCALATION_STATE_CHANGED EMERGENCY_CANCELLED critical
		expire`)
	s := raised(t).does(states.Actor{ID: "dr-z", Role: states.RoleOnCall}, states.EmergencyAccepted).does(asNurse, states.EmergencyCancelled)
	if got := recipients(s.last); !slices.Equal(got, []string{"dr-a", "dr-b", "dr-z"}) {
		t.Fatalf("the end is told to %v", got)
	}
}

func TestSeverityChanges(t *testing.T) {
	t.Run("raised while waiting", func(t *testing.T) {
		raised(t).wait(50*time.Second).does(asNurse, states.EmergencySeverityChanged, severity(states.SeverityLifeThreatening)).gives(`
			waiting
			emergency cardiology EMERGENCY_SEVERITY_CHANGED critical [from:critical severity:life-threatening]
			emergency cardiology EMERGENCY_PAGED critical [round:2 users:2]
			notify dr-a EMERGENCY_ESCALATION critical [round:2]
			page dr-a EMERGENCY_ESCALATION by sms critical [round:2]
			notify dr-b EMERGENCY_ESCALATION critical [round:2]
			page dr-b EMERGENCY_ESCALATION by sms critical [round:2]
			drop re-page #1
			arm re-page #2 in 30s
			audit EVENT_ACCEPTED EMERGENCY_SEVERITY_CHANGED critical`)
	})
	t.Run("lowered while waiting", func(t *testing.T) {
		s := raised(t).wait(50*time.Second).does(asNurse, states.EmergencySeverityChanged, severity(states.SeverityUrgent)).gives(`
			waiting
			emergency cardiology EMERGENCY_SEVERITY_CHANGED critical [from:critical severity:urgent]
			audit EVENT_ACCEPTED EMERGENCY_SEVERITY_CHANGED critical`)
		s.fires(states.TimerRePage)
		if s.now != noon.Add(time.Minute) {
			t.Fatal("lowering the severity lengthened the running timer")
		}
		if a, _ := s.record.Escalation.Timers.Armed(states.TimerRePage); a.Due.Sub(s.now) != 3*time.Minute {
			t.Fatal("the next round does not have the new severity's time")
		}
	})
	t.Run("raised after acceptance", func(t *testing.T) {
		raised(t).does(asFirst, states.EmergencyAccepted).
			does(asNurse, states.EmergencySeverityChanged, severity(states.SeverityLifeThreatening)).gives(`
				accepted
				emergency cardiology EMERGENCY_SEVERITY_CHANGED critical [from:critical severity:life-threatening]
				notify dr-a EMERGENCY_ESCALATION critical [round:1]
				audit EVENT_ACCEPTED EMERGENCY_SEVERITY_CHANGED critical`)
	})
	t.Run("raised before anybody is paged", func(t *testing.T) {
		s := asked(t).does(asNurse, states.EmergencySeverityChanged, severity(states.SeverityLifeThreatening)).gives(`
			triggered
			emergency cardiology EMERGENCY_SEVERITY_CHANGED critical [from:critical severity:life-threatening]
			audit EVENT_ACCEPTED EMERGENCY_SEVERITY_CHANGED critical`)
		s.does(asSystem, states.OnCallAnswered, onCall("dr-x"))
		if a, _ := s.record.Escalation.Timers.Armed(states.TimerRePage); a.Due.Sub(s.now) != 30*time.Second {
			t.Fatal("the page does not have the new severity's time")
		}
	})
}

func TestStaleEscalationTimers(t *testing.T) {
	s := raised(t).fires(states.TimerRePage)
	before := s.record
	s.does(asSystem, states.TimerFired, timer(s.record.ID, states.TimerRePage, 1)).refused(states.StaleTimer)
	s.does(asSystem, states.TimerFired, timer(s.record.ID, states.TimerRoster, 1)).refused(states.StaleTimer)
	if s.record.Version != before.Version || s.record.Chain != before.Chain {
		t.Fatal("a stale timer leaves a trace")
	}
	s.does(asFirst, states.EmergencyAccepted).does(asSystem, states.TimerFired, timer(s.record.ID, states.TimerRePage, 2)).refused(states.StaleTimer)
}
