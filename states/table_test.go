package states_test

import (
	"strings"
	"testing"

	"consultd/states"
)

func TestTheTablesAreSound(t *testing.T) {
	if err := states.Verify(); err != nil {
		t.Fatal(err)
	}
}

// TestVerifyNamesWhatIsWrong breaks a small sound table in every way that looplab/fsm would accept in silence.
func TestVerifyNamesWhatIsWrong(t *testing.T) {
	by := []states.Role{states.RoleBackend}
	sound := func() states.Table {
		return states.Table{Name: "test", States: []states.State{states.VisitScheduled, states.VisitCancelled}, Rows: []states.Row{
			{On: states.AppointmentScheduled, From: []states.State{states.StateNone}, To: states.VisitScheduled, By: by, Reason: "It is booked."},
			{On: states.AppointmentCancelled, From: []states.State{states.VisitScheduled}, To: states.VisitCancelled, By: by, Reason: "It is off."},
		}}
	}
	if err := sound().Verify(); err != nil {
		t.Fatalf("the sound table is refused: %v", err)
	}
	for name, c := range map[string]struct {
		harm func(*states.Table)
		want string
	}{
		"a row twice":          {func(t *states.Table) { t.Rows = append(t.Rows, t.Rows[1]) }, `APPOINTMENT_CANCELLED from "scheduled" is there twice`},
		"contradicting rows":   {func(t *states.Table) { r := t.Rows[1]; r.To = states.Stay; t.Rows = append(t.Rows, r) }, "is there twice"},
		"guarded and not":      {func(t *states.Table) { r := t.Rows[1]; r.When = states.GuardAsk; t.Rows = append(t.Rows, r) }, "without a guard beside others"},
		"not and guarded":      {func(t *states.Table) { r := t.Rows[1]; t.Rows[1].When = states.GuardAsk; t.Rows = append(t.Rows, r) }, "without a guard beside others"},
		"a misspelt guard":     {func(t *states.Table) { t.Rows[1].When = "tomorow" }, "unknown guard"},
		"a misspelt target":    {func(t *states.Table) { t.Rows[1].To = "canceled" }, `unknown state "canceled"`},
		"a misspelt source":    {func(t *states.Table) { t.Rows[1].From = []states.State{"planned"} }, `unknown state "planned"`},
		"no source":            {func(t *states.Table) { t.Rows[1].From = nil }, "leads from no state"},
		"an unreachable state": {func(t *states.Table) { t.States = append(t.States, states.VisitWaiting) }, `"waiting" is never reached`},
		"a dead end":           {func(t *states.Table) { t.Rows[1].To = states.Stay; t.States = t.States[:1] }, `"scheduled" cannot be left`},
		"leaving a final state": {func(t *states.Table) {
			t.Rows[1].From = append(t.Rows[1].From, states.VisitCancelled)
			t.Rows[1].To = states.VisitScheduled
		}, `leaves the final state "cancelled"`},
		"staying in nothing":      {func(t *states.Table) { t.Rows[0].To = states.Stay }, "stays in no state"},
		"neither event nor timer": {func(t *states.Table) { t.Rows[1].On = "" }, "needs either an event or a timer"},
		"event and timer":         {func(t *states.Table) { t.Rows[1].Timer = states.TimerNoShow }, "needs either an event or a timer"},
		"no reason":               {func(t *states.Table) { t.Rows[1].Reason = "" }, "has no reason"},
		"by nobody":               {func(t *states.Table) { t.Rows[1].By = nil }, "by nobody"},
		"by an unknown role":      {func(t *states.Table) { t.Rows[1].By = []states.Role{"doctor"} }, `unknown role "doctor"`},
		"by different roles": {func(t *states.Table) {
			t.Rows = append(t.Rows, states.Row{
				On: states.AppointmentCancelled, From: []states.State{states.VisitCancelled}, To: states.Stay,
				By: []states.Role{states.RolePatient}, Reason: "Again.",
			})
		}, "different roles in different rows"},
	} {
		table := sound()
		c.harm(&table)
		if err := table.Verify(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}

// TestEveryTimerHasARow makes sure that no timer is armed for which nothing happens when it is due.
func TestEveryTimerHasARow(t *testing.T) {
	rows := map[states.TimerKind]bool{}
	for _, table := range []states.Table{states.Visits(), states.Escalations()} {
		for _, r := range table.Rows {
			if r.Timer != "" {
				rows[r.Timer] = true
				if len(r.By) != 1 || r.By[0] != states.RoleSystem {
					t.Errorf("timer %s may be caused by %v", r.Timer, r.By)
				}
			}
		}
	}
	for _, k := range []states.TimerKind{
		states.TimerNoShow, states.TimerReadiness, states.TimerLongWait, states.TimerWaitLimit,
		states.TimerConnectSoft, states.TimerConnectHard, states.TimerProviderDrop, states.TimerPatientDrop, states.TimerBothAbsent,
		states.TimerWrapUpSoft, states.TimerWrapUpHard, states.TimerRoster, states.TimerRePage,
	} {
		if !rows[k] {
			t.Errorf("timer %s has no row", k)
		}
	}
}
