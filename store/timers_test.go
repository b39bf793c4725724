package store

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"consultd/states"
	"consultd/test/redis"
)

func arm(t *testing.T, s *Store, claim states.Claim, seq uint64, changes ...states.TimerChange) {
	t.Helper()
	c := visitCommit(claim, seq, fmt.Sprintf("armed-%d-%d", claim.Partition.Number, seq), 1)
	c.Decision.Timers = changes
	if stored, err := s.Commit(t.Context(), c); err != nil || stored.Outcome != states.Committed {
		t.Fatalf("arming: %+v, %v", stored, err)
	}
}

func TestDueTellsWhatIsDueAndWhatIsNext(t *testing.T) {
	server := redis.ForTest(t, redis.Options{})
	s := openAt(t, server.Addr())
	other := states.Partition{Lane: states.LaneNormal, Number: 4}
	both := []states.Partition{normal3, other}
	claimA, claimB := claim(t, s, normal3), claim(t, s, other)
	now := time.Now()
	at := func(d time.Duration) time.Time { return now.Add(d).Truncate(time.Millisecond).UTC() }

	none, err := s.Due(t.Context(), both, 10)
	if err != nil || len(none.Due) != 0 || !none.Next.IsZero() || none.Now.IsZero() {
		t.Errorf("nothing armed: %+v, %v", none, err)
	}
	for i := range 5 {
		arm(t, s, claimA, uint64(i+1), states.TimerChange{ID: noShow(fmt.Sprintf("a%d", i)), Due: at(-time.Duration(10+i) * time.Minute)})
	}
	arm(t, s, claimA, 10, states.TimerChange{ID: noShow("later"), Due: at(2 * time.Hour)})
	arm(t, s, claimB, 10,
		states.TimerChange{ID: noShow("b0"), Due: at(-time.Minute)},
		states.TimerChange{ID: noShow("next"), Due: at(time.Hour)})

	got, err := s.Due(t.Context(), both, 3)
	if err != nil {
		t.Fatal(err)
	}
	want := []states.DueTimer{
		{ID: noShow("a4"), Due: at(-14 * time.Minute)},
		{ID: noShow("a3"), Due: at(-13 * time.Minute)},
		{ID: noShow("a2"), Due: at(-12 * time.Minute)},
		{ID: noShow("b0"), Due: at(-time.Minute)},
	}
	if !reflect.DeepEqual(got.Due, want) {
		t.Errorf("due %v, want the three oldest of one partition and the other's: %v", got.Due, want)
	}
	if got.Next != at(time.Hour) {
		t.Errorf("next at %v, want %v", got.Next, at(time.Hour))
	}
	if got.Now.Sub(now) < -time.Second || got.Now.Sub(now) > patience {
		t.Errorf("now is %v", got.Now)
	}
	if due, _, err := s.Earliest(t.Context(), both); due != at(-14*time.Minute) || err != nil {
		t.Errorf("earliest is %v, %v", due, err)
	}
	if due, _, err := s.Earliest(t.Context(), []states.Partition{{Lane: states.LaneNormal, Number: 9}}); !due.IsZero() || err != nil {
		t.Errorf("earliest of nothing is %v, %v", due, err)
	}
}

func TestDueComesTrueOnRedisTime(t *testing.T) {
	_, s, claim := started(t, redis.Options{})
	due := time.Now().Add(50 * time.Millisecond)
	arm(t, s, claim, 1, states.TimerChange{ID: noShow("apt-1"), Due: due})
	await(t, "the timer to be due", func() bool {
		look, err := s.Due(t.Context(), []states.Partition{normal3}, 10)
		if err != nil {
			t.Fatal(err)
		}
		if len(look.Due) == 0 && look.Next.Before(due.Truncate(time.Millisecond)) {
			t.Fatalf("next is %v", look.Next)
		}
		if len(look.Due) > 0 && look.Now.Before(due.Truncate(time.Millisecond)) {
			t.Fatalf("due at %v already at %v", due, look.Now)
		}
		return len(look.Due) == 1
	})
}

func TestDuePassesOverRowsItCannotRead(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	arm(t, s, claim, 1, states.TimerChange{ID: noShow("apt-1"), Due: start})
	raw(t, server.Addr()).ZAdd(t.Context(), s.keys.timers(normal3), goredis.Z{Member: "nonsense", Score: 1})
	if got := dueIDs(t, s); !reflect.DeepEqual(got, []states.TimerID{noShow("apt-1")}) {
		t.Errorf("due %v", got)
	}
}
