package nats

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"consultd/handlers"
	"consultd/states"
)

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func ring(seeds ...byte) map[string]ed25519.PublicKey {
	var keys []ed25519.PublicKey
	for _, s := range seeds {
		keys = append(keys, testKey(s).Public().(ed25519.PublicKey))
	}
	return KeyRing(keys)
}

// notarize runs a notary until the end of the audit entries is sealed.
func notarize(t *testing.T, c *Client, o NotaryOptions) {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	if o.Every == 0 {
		o.Every = time.Millisecond
	}
	done := make(chan error, 1)
	go func() { done <- NewNotary(c, o).Run(ctx) }()
	last := uint64(0)
	r := reader{client: c, stream: AuditStream, subject: handlers.AuditEntrySubject, toEnd: true}
	if err := r.run(ctx, func(m message) error { last = m.seq; return nil }); err != nil {
		t.Fatal(err)
	}
	keys := map[string]ed25519.PublicKey{}
	if o.Key != nil {
		keys = KeyRing([]ed25519.PublicKey{o.Key.Public().(ed25519.PublicKey)})
	}
	eventually(t, "everything is sealed", func() bool {
		s, err := c.JS.Stream(ctx, AuditStream)
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.GetLastMsgForSubject(ctx, handlers.AuditCheckpointSubject)
		if err != nil {
			return false
		}
		cp, err := openCheckpoint(m.Data, keys)
		return err == nil && cp.To == last
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// say publishes audit entries, one message for each decision.
func say(t *testing.T, c *Client, decisions ...[]states.AuditEntry) {
	t.Helper()
	var ms []states.Message
	for _, entries := range decisions {
		ms = append(ms, auditMessage(t, entries...))
	}
	for _, m := range ms { // one at a time: the order counts
		if err := NewAudit(c).Publish(testContext(t), []states.Message{m}); err != nil {
			t.Fatal(err)
		}
	}
}

func verify(t *testing.T, c *Client, o VerifyOptions) Report {
	t.Helper()
	if o.Keys == nil {
		o.Keys = ring(1)
	}
	r, err := Verify(testContext(t), c, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestNotarySealsAndVerifies(t *testing.T) {
	server, c := broker(t)
	a, b := chain("a", 6), chain("b", 4)
	say(t, c, a[:2], b[:1], a[2:3])
	notarize(t, c, NotaryOptions{Key: testKey(1), Entries: 2})
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "reconnected", c.Conn.IsConnected)
	say(t, c, b[1:3], a[3:6], b[3:])
	var alarms bytes.Buffer
	notarize(t, c, NotaryOptions{Key: testKey(1), Entries: 100, Log: zerolog.New(&alarms)})
	if alarms.Len() > 0 {
		t.Errorf("false alarm: %s", &alarms)
	}
	r := verify(t, c, VerifyOptions{})
	if !r.OK() || r.Entries != 10 || r.Chains != 2 || r.Checkpoints < 2 || r.Unsealed != 0 || r.Head == "" {
		t.Errorf("%+v", r)
	}
	// The head of an earlier report must still be there later.
	say(t, c, chain("c", 1))
	if later := verify(t, c, VerifyOptions{Anchor: r.Head}); !later.OK() || later.Unsealed != 1 {
		t.Errorf("%+v", later)
	}
	if later := verify(t, c, VerifyOptions{Anchor: strings.Repeat("0", 64)}); later.OK() {
		t.Error("an unknown anchor was found")
	}
	if wrong := verify(t, c, VerifyOptions{Keys: ring(2)}); wrong.OK() {
		t.Error("another key verifies")
	}
}

// TestNotariesExcludeEachOther runs three of them while entries arrive; together they must write one unbroken series.
func TestNotariesExcludeEachOther(t *testing.T) {
	server, c := broker(t)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	var wg sync.WaitGroup
	for range 3 {
		own := connect(t, server)
		wg.Go(func() {
			if err := NewNotary(own, NotaryOptions{Key: testKey(1), Entries: 3, Every: 5 * time.Millisecond, Log: zerolog.Nop()}).Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	entries := chain("a", 120)
	for i := range entries {
		say(t, c, entries[i:i+1])
	}
	eventually(t, "everything is sealed", func() bool {
		r := verify(t, c, VerifyOptions{})
		return r.Unsealed == 0
	})
	cancel()
	wg.Wait()
	if r := verify(t, c, VerifyOptions{}); !r.OK() || r.Checkpoints < 10 || r.Entries != 120 {
		t.Errorf("%+v", r)
	}
}

func TestNotaryChangesKeys(t *testing.T) {
	_, c := broker(t)
	say(t, c, chain("a", 2))
	notarize(t, c, NotaryOptions{}) // unsigned, as in development
	if r := verify(t, c, VerifyOptions{Keys: map[string]ed25519.PublicKey{}}); !r.OK() || r.Unsealed != 0 {
		t.Errorf("unsigned, without keys: %+v", r)
	}
	if r := verify(t, c, VerifyOptions{}); !r.OK() || r.Unsigned == 0 || r.Unsealed != 2 {
		t.Errorf("unsigned, with keys: %+v", r)
	}
	say(t, c, chain("b", 2))
	notarize(t, c, NotaryOptions{Key: testKey(1)})
	if r := verify(t, c, VerifyOptions{}); !r.OK() || r.Unsealed != 0 {
		t.Errorf("signed from the beginning: %+v", r)
	}
	if err := NewNotary(c, NotaryOptions{Key: testKey(2), Log: zerolog.Nop()}).Run(testContext(t)); !errors.Is(err, errUnknownKey) {
		t.Errorf("a notary went on behind one that it does not trust: %v", err)
	}
	say(t, c, chain("c", 2))
	notarize(t, c, NotaryOptions{Key: testKey(2), Trusted: []ed25519.PublicKey{testKey(1).Public().(ed25519.PublicKey)}})
	if r := verify(t, c, VerifyOptions{Keys: ring(1, 2)}); !r.OK() || r.Unsealed != 0 {
		t.Errorf("after a change of keys: %+v", r)
	}
}

// TestNotaryPassesOverForgedCheckpoints must go on sealing when somebody writes rubbish on its subject.
func TestNotaryPassesOverForgedCheckpoints(t *testing.T) {
	_, c := broker(t)
	say(t, c, chain("a", 2))
	notarize(t, c, NotaryOptions{Key: testKey(1)})
	forged := Checkpoint{ID: "x", From: 1, To: 1 << 60, KeyID: KeyID(testKey(1).Public().(ed25519.PublicKey)), Signature: make([]byte, 64)}
	data, err := json.Marshal(forged)
	if err != nil {
		t.Fatal(err)
	}
	for _, rubbish := range [][]byte{data, []byte("rubbish")} {
		ack, err := c.JS.Publish(testContext(t), handlers.AuditCheckpointSubject, rubbish)
		if err != nil {
			t.Fatal(err)
		}
		say(t, c, chain(fmt.Sprint("after-", ack.Sequence), 1))
		notarize(t, c, NotaryOptions{Key: testKey(1)})
		r := verify(t, c, VerifyOptions{})
		if r.OK() || r.Findings[len(r.Findings)-1].StreamSeq != ack.Sequence || r.Unsealed != 0 {
			t.Errorf("forged at %d: %+v", ack.Sequence, r)
		}
	}
}

// stored is one message of the audit stream.
type stored struct {
	subject string
	data    []byte
}

func contents(t *testing.T, c *Client) []stored {
	t.Helper()
	var out []stored
	r := reader{client: c, stream: AuditStream, toEnd: true}
	if err := r.run(testContext(t), func(m message) error {
		out = append(out, stored{m.subject, bytes.Clone(m.data)})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestVerifyNamesWhatWasTamperedWith rebuilds the stream, as somebody with access to the server's files could, with one
// thing changed each time.
func TestVerifyNamesWhatWasTamperedWith(t *testing.T) {
	_, original := broker(t)
	a, b := chain("a", 5), chain("b", 5)
	for i := range a {
		say(t, original, a[i:i+1], b[i:i+1])
	}
	notarize(t, original, NotaryOptions{Key: testKey(1), Entries: 100, Every: 50 * time.Millisecond})
	intact := contents(t, original)
	if len(intact) != 11 || intact[10].subject != handlers.AuditCheckpointSubject {
		t.Fatalf("%d messages, not ten and a checkpoint", len(intact))
	}
	edit := func(i int, change func(e *states.AuditEntry)) func([]stored) []stored {
		return func(ms []stored) []stored {
			entries, _ := auditEntries(ms[i].data)
			change(&entries[0])
			ms[i].data = auditMessage(t, entries...).Payload
			return ms
		}
	}
	forge := func(e states.AuditEntry) states.AuditEntry {
		e.Outcome = "forged"
		e.Hash = e.Sum()
		return e
	}
	for _, test := range []struct {
		name   string
		tamper func([]stored) []stored // then written into a new stream
		remove []uint64                // then removed from it through the server
		first  Finding                 // Problem is a part of it
	}{
		{name: "nothing", tamper: func(ms []stored) []stored { return ms }},
		{name: "repeat", tamper: func(ms []stored) []stored { return append(ms, ms[4], ms[6]) }},
		{name: "delete", remove: []uint64{5}, first: Finding{5, "visit:a", 3, "is missing: messages 5 to 5 were removed"}},
		{
			name: "delete and close the gap", tamper: func(ms []stored) []stored { return slices.Delete(ms, 4, 5) },
			first: Finding{6, "visit:a", 3, "is missing or not in its place: entry 4 comes instead"},
		},
		{name: "edit", tamper: edit(4, func(e *states.AuditEntry) { e.Actor.ID = "dr-x" }), first: Finding{5, "visit:a", 3, "was changed"}},
		{
			name: "edit and hash anew", tamper: edit(4, func(e *states.AuditEntry) { *e = forge(*e) }),
			first: Finding{7, "visit:a", 4, "does not follow the entry before it"},
		},
		{
			name: "edit the last of a chain and hash anew", tamper: edit(9, func(e *states.AuditEntry) { *e = forge(*e) }),
			first: Finding{11, "", 0, "checkpoint over 1 to 10 does not match"},
		},
		{
			name: "swap", tamper: func(ms []stored) []stored { ms[4], ms[6] = ms[6], ms[4]; return ms },
			first: Finding{5, "visit:a", 3, "is missing or not in its place"},
		},
		{
			name: "swap between chains", tamper: func(ms []stored) []stored { ms[4], ms[5] = ms[5], ms[4]; return ms },
			first: Finding{11, "", 0, "does not match"},
		},
		{name: "truncate the end", remove: []uint64{10, 11}, first: Finding{10, "", 0, "messages 10 to 11 were removed"}},
		{name: "truncate the beginning", remove: []uint64{1, 2}, first: Finding{1, "visit:a", 1, "is missing: messages 1 to 2 were removed"}},
		{name: "remove everything", remove: []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, first: Finding{1, "", 0, "messages 1 to 11 were removed"}},
		{name: "insert a forged entry", tamper: func(ms []stored) []stored {
			e := forge(a[2])
			return slices.Insert(ms, 4, stored{handlers.AuditEntrySubject, auditMessage(t, e).Payload})
		}, first: Finding{6, "visit:a", 3, "is stored a second time with other content"}},
		{name: "append a forged entry", tamper: func(ms []stored) []stored {
			return append(ms, stored{handlers.AuditEntrySubject, auditMessage(t, forge(b[1])).Payload})
		}, first: Finding{12, "visit:b", 2, "is stored a second time with other content"}},
		{name: "append a forged message", tamper: func(ms []stored) []stored {
			return append(ms, stored{handlers.AuditEntrySubject, []byte(`{"entries":[{"id":"x","extra":1}]}`)})
		}, first: Finding{12, "", 0, "does not hold audit entries"}},
		{name: "edit the checkpoint", tamper: func(ms []stored) []stored {
			ms[10].data = bytes.Replace(ms[10].data, []byte(`"count":10`), []byte(`"count":11`), 1)
			return ms
		}, first: Finding{11, "", 0, "checkpoint is not genuine: its signature"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, c := broker(t)
			ctx := testContext(t)
			if err := c.JS.DeleteStream(ctx, AuditStream); err != nil {
				t.Fatal(err)
			}
			s, err := c.JS.CreateStream(ctx, jetstream.StreamConfig{Name: AuditStream, Subjects: []string{"consult.audit.>"}})
			if err != nil {
				t.Fatal(err)
			}
			ms := slices.Clone(intact)
			if test.tamper != nil {
				ms = test.tamper(ms)
			}
			for _, m := range ms {
				if _, err := c.JS.PublishMsg(ctx, &nats.Msg{Subject: m.subject, Data: m.data}); err != nil {
					t.Fatal(err)
				}
			}
			for _, seq := range test.remove {
				if err := s.DeleteMsg(ctx, seq); err != nil {
					t.Fatal(err)
				}
			}
			r := verify(t, c, VerifyOptions{})
			if test.first == (Finding{}) {
				if !r.OK() || r.Entries != 10 {
					t.Errorf("%+v", r)
				}
				return
			}
			if r.OK() {
				t.Fatal("nothing found")
			}
			got, want := r.Findings[0], test.first
			if got.StreamSeq != want.StreamSeq || got.Chain != want.Chain || got.Seq != want.Seq || !strings.Contains(got.Problem, want.Problem) {
				t.Errorf("first finding: %s\nwanted: %s", got, want)
			}
		})
	}
}

func TestAuditStreamRefusesRemovals(t *testing.T) {
	_, c := broker(t)
	ctx := testContext(t)
	say(t, c, chain("a", 1))
	s, err := c.JS.Stream(ctx, AuditStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(ctx, 1); err == nil {
		t.Error("a message of the audit stream was deleted")
	}
	if err := s.Purge(ctx); err == nil {
		t.Error("the audit stream was purged")
	}
}

func TestProjectorPacksInOrder(t *testing.T) {
	_, c := broker(t)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	entries := chain("a", 300)
	for i := 0; i < len(entries); i += 3 {
		say(t, c, entries[i:i+3])
	}
	type projected struct {
		ID      string              `json:"id"`
		Entries []states.AuditEntry `json:"entries"`
	}
	var got []states.AuditEntry
	messages, calls := 0, 0
	finished := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- NewProjector(c, "org", zerolog.Nop()).Run(ctx, func(_ context.Context, ms []states.Message) error {
			calls++
			if calls%2 == 1 {
				return errors.New("away")
			}
			for _, m := range ms {
				var p projected
				if err := json.Unmarshal(m.Payload, &p); err != nil || p.ID != m.ID || m.Channel != "audit.org" || len(m.Payload) > 24<<10 {
					t.Errorf("message %s on %s, %d bytes: %v", m.ID, m.Channel, len(m.Payload), err)
				}
				got = append(got, p.Entries...)
				messages++
			}
			if len(got) >= len(entries) {
				close(finished)
			}
			return nil
		})
	}()
	select {
	case <-finished:
	case <-ctx.Done():
		t.Fatal("the projection did not get to the end")
	}
	eventually(t, "everything is acknowledged", func() bool {
		consumer, err := c.JS.Consumer(ctx, AuditStream, projectorName)
		if err != nil {
			t.Fatal(err)
		}
		info := consumer.CachedInfo()
		return info.NumAckPending == 0 && info.NumPending == 0
	})
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := states.VerifyChain(states.Chain{}, got); err != nil || len(got) != len(entries) {
		t.Errorf("%d entries: %v", len(got), err)
	}
	if messages > 10 {
		t.Errorf("%d messages for %d entries", messages, len(entries))
	}
}

// TestProjectorGoesOnWhereItStopped starts it twice; nothing is projected twice after an orderly end.
func TestProjectorGoesOnWhereItStopped(t *testing.T) {
	_, c := broker(t)
	entries := chain("a", 2)
	for i := range entries {
		say(t, c, entries[i:i+1])
		ctx, cancel := context.WithCancel(testContext(t))
		var got []string
		seen := make(chan struct{})
		done := make(chan error, 1)
		go func() {
			done <- NewProjector(c, "org", zerolog.Nop()).Run(ctx, func(_ context.Context, ms []states.Message) error {
				for _, m := range ms {
					got = append(got, m.ID)
				}
				close(seen)
				return nil
			})
		}()
		<-seen
		eventually(t, "it is acknowledged", func() bool {
			consumer, err := c.JS.Consumer(ctx, AuditStream, projectorName)
			return err == nil && consumer.CachedInfo().NumAckPending == 0
		})
		cancel()
		if err := <-done; err != nil || len(got) != 1 || got[0] != "audit."+entries[i].ID {
			t.Errorf("round %d projected %v: %v", i, got, err)
		}
	}
}

// TestProjectorGivesBackWhatItCouldNotSay stops one projector while its channel is away; the next one says everything well
// before the server would take it away from the first.
func TestProjectorGivesBackWhatItCouldNotSay(t *testing.T) {
	_, c := broker(t)
	say(t, c, chain("a", 3))
	first, stop := context.WithCancel(testContext(t))
	tried := make(chan struct{})
	done := make(chan error, 1)
	var once sync.Once
	go func() {
		done <- NewProjector(c, "org", zerolog.Nop()).Run(first, func(context.Context, []states.Message) error {
			once.Do(func() { close(tried) })
			return errors.New("away")
		})
	}()
	<-tried
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	second, cancel := context.WithTimeout(testContext(t), projectorWait/2)
	defer cancel()
	said := false
	if err := NewProjector(c, "org", zerolog.Nop()).Run(second, func(context.Context, []states.Message) error {
		said = true
		cancel()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !said {
		t.Error("what the first one had taken was kept from the second")
	}
}
