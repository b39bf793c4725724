package clinic

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Observer reads what consultd says on NATS, from the streams, so that nothing said is missed.
type Observer struct {
	c  *Clinic
	js jetstream.JetStream

	mu  sync.Mutex
	got []Heard
	ids map[string]int // Nats-Msg-Id to how often the stream holds it
}

var observed = []string{"CONSULT_OUT", "CONSULT_PAGES", "CONSULT_DEAD", "CONSULT_AUDIT"}

// Observe begins to read, from the beginning of the streams. The streams must exist.
func (c *Clinic) Observe() *Observer {
	c.tb.Helper()
	b := c.Backend()
	o := &Observer{c: c, js: b.js, ids: map[string]int{}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, stream := range observed {
		consumer, err := b.js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
		if err != nil {
			c.tb.Fatalf("observe %s: %v", stream, err)
		}
		consuming, err := consumer.Consume(o.hear)
		if err != nil {
			c.tb.Fatalf("observe %s: %v", stream, err)
		}
		c.tb.Cleanup(consuming.Stop)
	}
	return o
}

func (o *Observer) hear(m jetstream.Msg) {
	var body M
	if json.Unmarshal(m.Data(), &body) != nil {
		body = M{"unreadable": true}
	}
	channel := strings.TrimPrefix(strings.TrimPrefix(m.Subject(), "consult.out."), "consult.")
	o.mu.Lock()
	defer o.mu.Unlock()
	o.got = append(o.got, Heard{channel, body, time.Now()})
	o.ids[m.Headers().Get("Nats-Msg-Id")]++
}

// Heard is everything so far, oldest first per stream. Dead letters have channels dead.{code}, audit entries audit.entry.
func (o *Observer) Heard() []Heard {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]Heard(nil), o.got...)
}

// Await returns the first message that fits, waiting for it.
func (o *Observer) Await(what string, fits func(Heard) bool) Heard {
	o.c.tb.Helper()
	return await(o.c.tb, what, o.Heard, fits)
}

// All returns every message so far that fits.
func (o *Observer) All(fits func(Heard) bool) []Heard {
	var found []Heard
	for _, h := range o.Heard() {
		if fits(h) {
			found = append(found, h)
		}
	}
	return found
}

// Repeated returns message ids that a stream holds more than once.
func (o *Observer) Repeated() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ids []string
	for id, n := range o.ids {
		if n > 1 {
			ids = append(ids, id)
		}
	}
	return ids
}

// AuditEntries returns the entries of the audit stream so far, in stream order, repeats included.
func (o *Observer) AuditEntries() []M {
	var entries []M
	for _, h := range o.All(On("audit.entry")) {
		list, _ := h.Body["entries"].([]any)
		for _, e := range list {
			if entry, ok := e.(map[string]any); ok {
				entries = append(entries, entry)
			}
		}
	}
	return entries
}

// On fits messages of a channel.
func On(channel string) func(Heard) bool { return func(h Heard) bool { return h.Channel == channel } }

// With fits messages of a channel whose fields have the given values, compared as text.
func With(channel string, fields M) func(Heard) bool {
	return func(h Heard) bool {
		if h.Channel != channel {
			return false
		}
		for key, want := range fields {
			if fmt.Sprint(h.Body[key]) != fmt.Sprint(want) {
				return false
			}
		}
		return true
	}
}

func await(tb testing.TB, what string, heard func() []Heard, fits func(Heard) bool) (found Heard) {
	tb.Helper()
	eventually(tb, what, func() (bool, string) {
		all := heard()
		for _, h := range all {
			if fits(h) {
				found = h
				return true, ""
			}
		}
		return false, summary(all)
	})
	return found
}

// summary lists the last messages by channel and type, for a failing test.
func summary(all []Heard) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d messages seen; the last ones:", len(all))
	for _, h := range all[max(0, len(all)-15):] {
		what := h.Body["type"]
		if what == nil {
			what = h.Body["action"]
		}
		if what == nil {
			what = h.Body["code"]
		}
		fmt.Fprintf(&b, "\n  %s %v", h.Channel, what)
	}
	return b.String()
}
