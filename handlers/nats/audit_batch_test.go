package nats

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"consultd/handlers"
	"consultd/states"
)

// What many partitions audit at once travels in few messages; nothing is missing, and every chain keeps its order.
func TestAuditEntriesOfManyTravelTogether(t *testing.T) {
	_, c := broker(t)
	const partitions, decisions = 40, 20
	audit := NewAudit(c)
	var wg sync.WaitGroup
	for p := range partitions {
		wg.Go(func() {
			for _, entry := range chain(fmt.Sprintf("apt-%d", p), decisions) {
				if err := audit.Publish(testContext(t), []states.Message{auditMessage(t, entry)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	messages := 0
	seen := map[string]int64{}
	r := reader{client: c, stream: AuditStream, subject: handlers.AuditEntrySubject, toEnd: true}
	err := r.run(testContext(t), func(m message) error {
		messages++
		entries, ok := auditEntries(m.data)
		if !ok {
			t.Errorf("message %d holds no entries", m.seq)
		}
		for _, e := range entries {
			if e.Seq != seen[e.Chain]+1 {
				t.Errorf("%s: entry %d follows entry %d", e.Chain, e.Seq, seen[e.Chain])
			}
			seen[e.Chain] = e.Seq
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, last := range seen {
		if last != decisions {
			t.Errorf("%s ends at %d of %d", name, last, decisions)
		}
	}
	if len(seen) != partitions || messages >= partitions*decisions/2 {
		t.Errorf("%d chains in %d messages", len(seen), messages)
	}
}

// A batch that is repeated with other company is another message: taken for the first, it would lose the newcomers.
func TestJoinedMessagesAreKnownByAllTheyHold(t *testing.T) {
	job := func(id string) *auditJob {
		return &auditJob{m: states.Message{ID: id, Payload: []byte(`{"entries":[{"id":"` + id + `"}]}`)}}
	}
	ab, ac, again := join([]*auditJob{job("a"), job("b")}), join([]*auditJob{job("a"), job("c")}), join([]*auditJob{job("a"), job("b")})
	if ab.ID == ac.ID || ab.ID != again.ID || string(ab.Payload) != `{"entries":[{"id":"a"},{"id":"b"}]}` {
		t.Errorf("%s %s %s: %s", ab.ID, ac.ID, again.ID, ab.Payload)
	}
	if one := join([]*auditJob{job("a")}); one.ID != "a" || strings.Contains(one.ID, "audit.") {
		t.Errorf("one message alone becomes %s", one.ID)
	}
}
