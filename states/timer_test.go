package states_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"consultd/states"
)

func TestTimerIDsReadBack(t *testing.T) {
	id := states.TimerID{Kind: states.TimerNoShow, Record: states.RecordID{Kind: states.KindVisit, ID: appointment}, Key: provider, Generation: 7}
	if got := id.String(); got != "no-show|visit:appt-1|7|dr-lee" {
		t.Fatalf("it is written %s", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[A-Za-z0-9_-]{1,32}`)
		id := states.TimerID{
			Kind:       states.TimerKind(name.Draw(t, "kind")),
			Record:     states.RecordID{Kind: rapid.SampledFrom([]states.RecordKind{states.KindVisit, states.KindEscalation}).Draw(t, "record"), ID: name.Draw(t, "id")},
			Key:        name.Draw(t, "key"),
			Generation: rapid.IntRange(1, 1<<40).Draw(t, "generation"),
		}
		if got, err := states.ParseTimerID(id.String()); err != nil || got != id {
			t.Fatalf("%s reads as %+v (%v)", id, got, err)
		}
	})
	for _, bad := range []string{
		"", "no-show", "no-show|visit:a|1", "no-show|visit:a|1|k|", "|visit:a|1|k", "no-show|visit:|1|k", "no-show|visit:a|1|",
		"no-show|visit|1|k", "no-show|room:a|1|k", "no-show|visit:a|0|k", "no-show|visit:a|-1|k", "no-show|visit:a|01|k", "no-show|visit:a|1.0|k", "no-show|visit:a|x|k",
	} {
		if id, err := states.ParseTimerID(bad); err == nil {
			t.Errorf("%q reads as %+v", bad, id)
		}
	}
}

func TestQueueOrder(t *testing.T) {
	if got := states.QueueScore(states.PriorityUrgent, time.UnixMilli(1_700_000_000_123)); got != 11_700_000_000_123 {
		t.Fatalf("the score is %f", got)
	}
	order := []states.Priority{states.PriorityEmergency, states.PriorityUrgent, states.PriorityNormal, states.PriorityFollowUp}
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.IntRange(0, 3).Draw(t, "rank a"), rapid.IntRange(0, 3).Draw(t, "rank b")
		at := rapid.Int64Range(0, 9_999_999_999_999)
		x, y := at.Draw(t, "arrival a"), at.Draw(t, "arrival b")
		first := a < b || a == b && x < y
		if got := states.QueueScore(order[a], time.UnixMilli(x)) < states.QueueScore(order[b], time.UnixMilli(y)); got != first {
			t.Fatalf("%s at %d before %s at %d: %v", order[a], x, order[b], y, got)
		}
	})
	if states.QueueScore("", noon) != states.QueueScore(states.PriorityNormal, noon) {
		t.Fatal("no priority is not normal")
	}
}

func TestDefaultRulesPageInTime(t *testing.T) {
	var none states.Paging
	for severity, want := range map[states.Severity]time.Duration{
		states.SeverityLifeThreatening: 30 * time.Second, states.SeverityCritical: time.Minute, states.SeverityUrgent: 3 * time.Minute, "": time.Minute,
	} {
		if got := none.RePageAfter(severity); got != want {
			t.Errorf("a page of severity %q is repeated after %s", severity, got)
		}
	}
	rules := states.DefaultRules()
	rules.Paging.RePage[states.SeverityUrgent] = -time.Second
	if got := rules.Paging.RePageAfter(states.SeverityUrgent); got != 3*time.Minute {
		t.Errorf("a negative duration gives %s", got)
	}
}
