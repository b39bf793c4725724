package nats

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"consultd/states"
	"consultd/test/natsserver"
)

// patience bounds every wait; it is reached only when something is broken.
const patience = 60 * time.Second

func testContext(tb testing.TB) context.Context {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	tb.Cleanup(cancel)
	return ctx
}

func connect(tb testing.TB, s *natsserver.Server) *Client {
	tb.Helper()
	c, err := Connect(testContext(tb), Options{URLs: []string{s.URL()}, Name: tb.Name(), Logger: zerolog.Nop()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

// broker is a running server with all streams, and a connection to it.
func broker(tb testing.TB) (*natsserver.Server, *Client) {
	tb.Helper()
	s := natsserver.StartTB(tb, natsserver.Options{})
	c := connect(tb, s)
	if err := Reconcile(testContext(tb), c.JS, DefaultStreamOptions()); err != nil {
		tb.Fatal(err)
	}
	return s, c
}

// throughProxy is a connection over a line that the test can cut and slow down.
func throughProxy(tb testing.TB, s *natsserver.Server) (*Client, *toxiproxy.Proxy) {
	tb.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), zerolog.Nop())
	line := toxiproxy.NewProxy(server, "nats", "127.0.0.1:0", strings.TrimPrefix(s.URL(), "nats://"))
	if err := line.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(line.Stop)
	c, err := Connect(testContext(tb), Options{URLs: []string{"nats://" + line.Listen}, Logger: zerolog.Nop()})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c, line
}

// eventually waits until cond holds.
func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			tb.Fatalf("never happened: %s", what)
		}
		<-tick.C
	}
}

// fill stores n entries under one subject, numbered in their data from 1.
func fill(tb testing.TB, c *Client, subject string, n int) {
	tb.Helper()
	for i := 1; i <= n; i++ {
		if _, err := c.JS.PublishAsync(subject, fmt.Appendf(nil, "%d", i), jetstream.WithMsgID(fmt.Sprintf("%s-%d", subject, i))); err != nil {
			tb.Fatal(err)
		}
	}
	select {
	case <-c.JS.PublishAsyncComplete():
	case <-time.After(patience):
		tb.Fatal("publications are not acknowledged")
	}
}

// chain makes n linked audit entries about one visit.
func chain(visit string, n int) []states.AuditEntry {
	var out []states.AuditEntry
	prev := ""
	for i := 1; i <= n; i++ {
		e := states.AuditEntry{
			ID: fmt.Sprintf("%s.%d", visit, i), Timestamp: time.Unix(int64(i), 0).UTC(), EventType: states.AuditStateChanged,
			Severity: states.AuditInfo, Organization: "org", Actor: states.Actor{ID: "dr-a", Role: states.RoleProvider},
			Resource: states.AuditResource{Type: "visit", ID: visit}, Action: "JOIN", Outcome: states.AuditSuccess,
			Details: map[string]string{"from": "waiting", "to": "connecting"}, Chain: "visit:" + visit, Seq: int64(i), Prev: prev,
		}
		e.Hash = e.Sum()
		prev = e.Hash
		out = append(out, e)
	}
	return out
}

// auditMessage is entries as the engine hands them to the audit sink.
func auditMessage(tb testing.TB, entries ...states.AuditEntry) states.Message {
	tb.Helper()
	payload, err := json.Marshal(map[string]any{"entries": entries})
	if err != nil {
		tb.Fatal(err)
	}
	return states.Message{ID: entries[0].ID, Channel: "audit.org", Payload: payload}
}
