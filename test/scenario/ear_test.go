package scenario_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"consultd/states"
	"consultd/test/clinic"
)

// patience bounds every wait for something that must happen. It is no expectation: the machine may be busy.
const patience = 60 * time.Second

// M is a message's body.
type M = clinic.M

// ear hears everything that consultd says on NATS. It reads the streams, so it misses nothing, and keeps what it heard by
// channel in the order in which it was said.
type ear struct {
	js jetstream.JetStream

	mu      sync.Mutex
	changed chan struct{} // closed at the next message
	said    map[string][]M
	audit   []states.AuditEntry
	audited map[string]states.AuditEntry // by id
	told    map[string]states.AuditEntry // by details.effectId
	dead    map[deadKey]M
	ids     map[string]int    // how often each Nats-Msg-Id was stored
	last    map[string]uint64 // position in each stream
}

// deadKey is the log entry that a dead letter is about.
type deadKey struct {
	lane string
	seq  uint64
}

const (
	outStream   = "CONSULT_OUT"
	pagesStream = "CONSULT_PAGES"
	deadStream  = "CONSULT_DEAD"
	auditStream = "CONSULT_AUDIT"
)

// listen begins to hear, from the beginning of the streams.
func listen(t *testing.T, c *clinic.Clinic) *ear {
	t.Helper()
	conn, err := nats.Connect(c.NATS.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	e := &ear{
		js: js, changed: make(chan struct{}), said: map[string][]M{}, audited: map[string]states.AuditEntry{},
		told: map[string]states.AuditEntry{}, dead: map[deadKey]M{}, ids: map[string]int{}, last: map[string]uint64{},
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, stream := range []string{outStream, pagesStream, deadStream, auditStream} {
		consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
		if err != nil {
			t.Fatalf("listen to %s: %v", stream, err)
		}
		consuming, err := consumer.Consume(func(m jetstream.Msg) { e.hear(stream, m) })
		if err != nil {
			t.Fatalf("listen to %s: %v", stream, err)
		}
		t.Cleanup(consuming.Stop)
	}
	return e
}

func (e *ear) hear(stream string, m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if meta.Sequence.Stream <= e.last[stream] {
		return // a consumer that was made again
	}
	e.last[stream] = meta.Sequence.Stream
	e.ids[m.Headers().Get(nats.MsgIdHdr)]++
	switch stream {
	case auditStream:
		var body struct{ Entries []states.AuditEntry }
		if json.Unmarshal(m.Data(), &body) == nil {
			for _, entry := range body.Entries {
				e.audit = append(e.audit, entry)
				e.audited[entry.ID] = entry
				if effect := entry.Details["effectId"]; effect != "" {
					e.told[effect] = entry
				}
			}
		}
	default:
		var body M
		if json.Unmarshal(m.Data(), &body) != nil {
			body = M{"unreadable": true}
		}
		if stream == deadStream {
			seq, _ := body["seq"].(float64)
			e.dead[deadKey{fmt.Sprint(body["lane"]), uint64(seq)}] = body
			break
		}
		channel := strings.TrimPrefix(m.Subject(), "consult.out.")
		e.said[channel] = append(e.said[channel], body)
	}
	close(e.changed)
	e.changed = make(chan struct{})
}

// on is everything said on a channel so far.
func (e *ear) on(channel string) []M {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.said[channel]
}

// channels are those on which anything was said.
func (e *ear) channels() map[string][]M {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.said)
}

// await waits until a question about what was heard is answered. The question says what it saw, for the failing test; it is
// asked again with every message.
func (e *ear) await(t *testing.T, what string, answered func() (ok bool, saw string)) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		e.mu.Lock()
		changed := e.changed
		e.mu.Unlock()
		ok, saw := answered()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timer.C:
			t.Fatalf("%s did not happen within %s; instead: %s", what, patience, saw)
		}
	}
}

// catchUp waits until everything that is stored by now has been heard.
func (e *ear) catchUp(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, stream := range []string{outStream, pagesStream, deadStream, auditStream} {
		s, err := e.js.Stream(ctx, stream)
		if err != nil {
			t.Fatalf("look into %s: %v", stream, err)
		}
		last := s.CachedInfo().State.LastSeq
		e.await(t, "hearing all of "+stream, func() (bool, string) {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.last[stream] >= last, fmt.Sprintf("heard %d of %d", e.last[stream], last)
		})
	}
}

// eventually waits for something that only asking again can tell.
func eventually(t *testing.T, what string, answered func() (ok bool, saw string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, saw := answered()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s did not happen within %s; instead: %s", what, patience, saw)
		}
	}
}
