package store

import (
	"fmt"
	"testing"

	"consultd/states"
	"consultd/test/redis"
)

func TestEmptyTakesOneOrganisationsKeysOnly(t *testing.T) {
	t.Parallel()
	for _, cluster := range []bool{false, true} {
		t.Run(fmt.Sprintf("cluster %t", cluster), func(t *testing.T) {
			t.Parallel()
			server := redis.ForTest(t, redis.Options{Cluster: cluster})
			open := func(organization string) *Store {
				return openAt(t, server.Addr(), func(o *Options) { o.Organization, o.Cluster = organization, cluster })
			}
			ours, theirs := open("clinic"), open("clinic-2")
			for _, s := range []*Store{ours, theirs} {
				c := claim(t, s, normal3)
				for i := range 1500 { // more than one batch
					mustCommit(t, s, visitCommit(c, uint64(i+1), fmt.Sprint("a-", i), 1), states.Committed, int64(i+1))
				}
			}
			living, err := ours.Members(t.Context(), owner, ttl)
			if err != nil || len(living) != 1 {
				t.Fatal(living, err)
			}
			if living, err := ours.Living(t.Context()); err != nil || len(living) != 1 || living[0] != owner {
				t.Errorf("living: %q %v", living, err)
			}
			removed, err := ours.Empty(t.Context())
			if err != nil || removed < 1500 {
				t.Errorf("removed %d: %v", removed, err)
			}
			if r := mustLoad(t, ours, visitID("a-7")); r.Version != 0 {
				t.Errorf("still there: version %d", r.Version)
			}
			if r := mustLoad(t, theirs, visitID("a-7")); r.Version != 1 {
				t.Errorf("another organisation's record is gone: version %d", r.Version)
			}
			if living, err := ours.Living(t.Context()); err != nil || len(living) != 0 {
				t.Errorf("living: %q %v", living, err)
			}
			if again, err := ours.Empty(t.Context()); err != nil || again != 0 {
				t.Errorf("removed %d again: %v", again, err)
			}
			lease, err := ours.Acquire(t.Context(), owner, ttl, []states.Partition{normal3})
			if err != nil || lease[normal3].Seq != 0 || lease[normal3].Commits != 0 {
				t.Errorf("position after emptying: %+v %v", lease, err)
			}
		})
	}
}
