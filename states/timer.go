package states

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
)

// TimerKind names a timer; a record has at most one armed timer of a kind.
type TimerKind string

// The timers of a visit. The comments say what starts them; Timing says how long they run.
const (
	TimerNoShow       TimerKind = "no-show"       // the appointment's start
	TimerReadiness    TimerKind = "readiness"     // check-in without a ready device
	TimerLongWait     TimerKind = "long-wait"     // check-in; re-armed for every level
	TimerWaitLimit    TimerKind = "wait-limit"    // entering the waiting room
	TimerConnectSoft  TimerKind = "connect-soft"  // the provider joining a patient who is not there
	TimerConnectHard  TimerKind = "connect-hard"  // the same
	TimerProviderDrop TimerKind = "provider-drop" // the provider leaving
	TimerPatientDrop  TimerKind = "patient-drop"  // the patient leaving a visit that the provider does not hold
	TimerBothAbsent   TimerKind = "both-absent"   // the last of both leaving
	TimerWrapUpSoft   TimerKind = "wrap-up-soft"  // the end of the consultation
	TimerWrapUpHard   TimerKind = "wrap-up-hard"  // the same
)

// The timers of an escalation.
const (
	TimerRoster TimerKind = "roster"  // the question to the on-call source
	TimerRePage TimerKind = "re-page" // every page
)

// visitTimers lists every timer of a visit in the order in which a decision changes them.
func visitTimers() [11]TimerKind {
	return [...]TimerKind{
		TimerNoShow, TimerReadiness, TimerLongWait, TimerWaitLimit, TimerConnectSoft, TimerConnectHard,
		TimerProviderDrop, TimerPatientDrop, TimerBothAbsent, TimerWrapUpSoft, TimerWrapUpHard,
	}
}

// wantedBy says whether a visit is in a situation in which the timer makes sense. Entering the situation arms the timer and
// leaving it removes the timer, so no row of the table has to remember to.
func (k TimerKind) wantedBy(v *Visit) bool {
	switch k {
	case TimerNoShow:
		return v.State == VisitScheduled
	case TimerReadiness:
		return v.State == VisitCheckedIn
	case TimerLongWait, TimerWaitLimit:
		return v.State.Queued()
	case TimerConnectSoft, TimerConnectHard:
		return v.State == VisitConnecting
	case TimerProviderDrop:
		return v.State == VisitOnHold && !v.ProviderPresent
	case TimerPatientDrop:
		return v.State == VisitOnHold && !v.PatientPresent && !v.Held
	case TimerBothAbsent:
		return v.State == VisitOnHold && !v.PatientPresent && !v.ProviderPresent
	case TimerWrapUpSoft, TimerWrapUpHard:
		return v.State == VisitWrappingUp
	}
	return false
}

// dueFor is when a timer that is armed now is due; false when the rules switch it off.
func (t *Timing) dueFor(k TimerKind, v *Visit, now time.Time) (time.Time, bool) {
	from, after := now, time.Duration(0)
	switch k {
	case TimerNoShow:
		if v.StartsAt.IsZero() {
			return time.Time{}, false
		}
		from, after = v.StartsAt, t.NoShow
	case TimerReadiness:
		after = t.Readiness
	case TimerLongWait:
		if v.LongWaits >= len(t.LongWait) {
			return time.Time{}, false
		}
		from, after = v.CheckedInAt, t.LongWait[v.LongWaits]
	case TimerWaitLimit:
		after = t.WaitLimit
	case TimerConnectSoft:
		after = t.ConnectSoft
	case TimerConnectHard:
		after = t.ConnectHard
	case TimerProviderDrop:
		after = t.ProviderDrop
	case TimerPatientDrop:
		after = t.PatientDrop
	case TimerBothAbsent:
		after = t.BothAbsent
	case TimerWrapUpSoft:
		after = t.WrapUpSoft
	case TimerWrapUpHard:
		after = t.WrapUpHard
	}
	if after <= 0 {
		return time.Time{}, false
	}
	due := from.Add(after)
	if due.Before(now) {
		due = now // a level that passed while the patient was with the provider
	}
	return due, true
}

// Armed is the timer of a kind that is running, and false when none is.
func (t Timers) Armed(k TimerKind) (ArmedTimer, bool) {
	a := t[k]
	return a, !a.Due.IsZero()
}

// timers are those of the record being decided on. The map is copied before the first change, because it belongs to the
// caller.
type timers struct {
	key    string
	armed  *Timers
	copied bool
}

func (x *draft) setTimer(k TimerKind, a ArmedTimer) {
	if !x.timers.copied {
		x.timers.copied = true
		if *x.timers.armed == nil {
			*x.timers.armed = make(Timers, 4)
		} else {
			*x.timers.armed = maps.Clone(*x.timers.armed)
		}
	}
	(*x.timers.armed)[k] = a
}

func (x *draft) changeTimer(k TimerKind, generation int, due time.Time) {
	if x.d.Timers == nil {
		x.d.Timers = make([]TimerChange, 0, 4)
	}
	id := TimerID{Kind: k, Record: x.d.Record.ID, Key: x.timers.key, Generation: generation}
	x.d.Timers = append(x.d.Timers, TimerChange{ID: id, Due: due})
}

// arm starts a timer; one of the same kind that is still running is removed first.
func (x *draft) arm(k TimerKind, due time.Time) {
	x.drop(k)
	next := ArmedTimer{Generation: (*x.timers.armed)[k].Generation + 1, Due: due}
	x.setTimer(k, next)
	x.changeTimer(k, next.Generation, due)
}

// drop removes a running timer and its row. The row of a timer that has just fired goes with the commit of its event.
func (x *draft) drop(k TimerKind) {
	if a, ok := x.timers.armed.Armed(k); ok {
		x.setTimer(k, ArmedTimer{Generation: a.Generation})
		if x.ev.Kind != TimerFired || x.ev.Timer.Kind != k {
			x.changeTimer(k, a.Generation, time.Time{})
		}
	}
}

// TimerID is one armed timer: kind, record, generation, and the key (provider or department) that places it in a
// partition. String and ParseTimerID are inverse.
type TimerID struct {
	Kind       TimerKind
	Record     RecordID
	Key        string
	Generation int
}

// String is kind|recordkind:id|generation|key. No part may contain a bar; identifiers never do.
func (t TimerID) String() string {
	return string(t.Kind) + "|" + t.Record.String() + "|" + strconv.Itoa(t.Generation) + "|" + t.Key
}

// ParseTimerID reads what String wrote and refuses everything else.
func ParseTimerID(s string) (TimerID, error) {
	parts := strings.Split(s, "|")
	if len(parts) != 4 {
		return TimerID{}, fmt.Errorf("parse timer id: %d parts instead of 4", len(parts))
	}
	kind, id, ok := strings.Cut(parts[1], ":")
	if !ok || id == "" || parts[0] == "" || parts[3] == "" {
		return TimerID{}, fmt.Errorf("parse timer id: a part is empty")
	}
	switch RecordKind(kind) {
	case KindVisit, KindEscalation, KindDesk:
	default:
		return TimerID{}, fmt.Errorf("parse timer id: unknown record kind %q", kind)
	}
	generation, err := strconv.Atoi(parts[2])
	if err != nil || generation < 1 || strconv.Itoa(generation) != parts[2] {
		return TimerID{}, fmt.Errorf("parse timer id: generation %q is no positive number", parts[2])
	}
	return TimerID{Kind: TimerKind(parts[0]), Record: RecordID{RecordKind(kind), id}, Key: parts[3], Generation: generation}, nil
}
