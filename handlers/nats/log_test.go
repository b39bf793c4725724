package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"consultd/handlers"
	"consultd/states"
)

// TestReadSurvivesRestarts reads 10,000 entries while the server is stopped and killed in the middle of deliveries, and
// while entries are still being appended.
func TestReadSurvivesRestarts(t *testing.T) {
	const total = 10_000
	server, c := broker(t)
	log := NewLog(c, states.LaneNormal, nil)
	fill(t, c, "consult.in.waiting-room.a", total-100)

	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	var one sync.Mutex // crash at a time
	crash := func(stop func() error) func() error {
		return func() error {
			one.Lock()
			defer one.Unlock()
			return errors.Join(stop(), server.Start())
		}
	}
	crashes := map[int]func() error{
		2500: crash(func() error { server.Stop(); return nil }),
		7500: crash(server.Kill),
		9900: crash(server.Kill), // at the end, when nothing more is due
	}
	crashed := make(chan error, len(crashes))
	got := 0
	done := make(chan error, 1)
	go func() {
		done <- log.Read(ctx, 0, func(e states.Entry) error {
			got++
			if e.Seq != uint64(got) || string(e.Data) != strconv.Itoa(got) && got <= total-100 {
				return fmt.Errorf("entry %d came as number %d", e.Seq, got)
			}
			if crash, ok := crashes[got]; ok {
				go func() { crashed <- crash() }()
			}
			if got == total {
				cancel()
			}
			return nil
		})
	}()
	for range crashes {
		select {
		case err := <-crashed:
			if err != nil {
				t.Fatal(err)
			}
		case err := <-done:
			t.Fatalf("reading ended at %d: %v", got, err)
		}
	}
	for i := range 100 {
		if _, err := log.Append(testContext(t), "consult.in.waiting-room.b", fmt.Sprintf("late-%d", i), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; !errors.Is(err, context.Canceled) || got != total {
		t.Fatalf("got %d entries: %v", got, err)
	}
}

// TestReadMissesNothingOnABrokenLine loses an entry on the wire that the server takes for delivered; no later entry will
// show that there is a gap.
func TestReadMissesNothingOnABrokenLine(t *testing.T) {
	server, direct := broker(t)
	c, line := throughProxy(t, server)
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	got := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		done <- NewLog(c, states.LaneEmergency, nil).Read(ctx, 0, func(e states.Entry) error { got <- e.Header[HeaderID]; return nil })
	}()
	log := NewLog(direct, states.LaneEmergency, nil)
	for _, id := range []string{"before", "lost"} {
		if _, err := log.Append(ctx, "consult.in.emergency.er", id, nil, nil); err != nil {
			t.Fatal(err)
		}
		if id == "lost" {
			eventually(t, "the server has sent it", func() bool {
				s, err := direct.JS.Stream(ctx, EmergencyStream)
				if err != nil {
					t.Fatal(err)
				}
				for info := range s.ListConsumers(ctx).Info() {
					if info.Delivered.Stream == 2 {
						return true
					}
				}
				return false
			})
			line.Stop()
			if err := line.Start(); err != nil {
				t.Fatal(err)
			}
			if err := line.Toxics.RemoveToxic(ctx, "hole"); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case e := <-got:
			if e != id {
				t.Fatalf("got %s, wanted %s", e, id)
			}
		case <-ctx.Done():
			t.Fatalf("%s was never delivered", id)
		}
		if id == "before" {
			if _, err := line.Toxics.AddToxicJson(strings.NewReader(
				`{"name":"hole","type":"timeout","stream":"downstream","attributes":{"timeout":0}}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	cancel()
	<-done
}

func TestReadDeliversEntriesAsStored(t *testing.T) {
	_, c := broker(t)
	ctx := testContext(t)
	log := NewLog(c, states.LaneEmergency, nil)
	before := time.Now().Add(-time.Minute)
	seq, err := log.Append(ctx, "consult.in.emergency.er", "id-1", map[string]string{
		handlers.HeaderActor: "nurse-1", handlers.HeaderRole: "nurse", "Traceparent": "x",
	}, []byte("data"))
	if err != nil || seq != 1 {
		t.Fatal(seq, err)
	}
	stop := errors.New("stop")
	var got states.Entry
	if err := log.Read(ctx, 0, func(e states.Entry) error { got = e; return stop }); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	if got.Lane != states.LaneEmergency || got.Seq != 1 || got.Subject != "consult.in.emergency.er" || string(got.Data) != "data" ||
		got.At.Before(before) || len(got.Header) != 3 || got.Header[HeaderID] != "id-1" || got.Header[handlers.HeaderActor] != "nurse-1" {
		t.Errorf("got %+v", got)
	}
	last, ok, err := log.Last(ctx, "consult.in.emergency.er")
	if err != nil || !ok || last.Seq != 1 || !last.At.Equal(got.At) || last.Header[HeaderID] != "id-1" {
		t.Errorf("last: %+v %v %v", last, ok, err)
	}
}

// TestReadEndsWithTheErrorOfDeliver uses errors that a reader would otherwise take for a passing trouble of its own.
func TestReadEndsWithTheErrorOfDeliver(t *testing.T) {
	_, c := broker(t)
	fill(t, c, "consult.in.waiting-room.a", 2)
	for _, want := range []error{context.Canceled, context.DeadlineExceeded, nats.ErrTimeout, errSession} {
		calls := 0
		err := NewLog(c, states.LaneNormal, nil).Read(testContext(t), 0, func(states.Entry) error { calls++; return want })
		if !errors.Is(err, want) || calls != 1 {
			t.Errorf("%v after %d calls, wanted %v", err, calls, want)
		}
	}
}

func TestReadRefusesPositionsOfAnotherLog(t *testing.T) {
	_, c := broker(t)
	ctx := testContext(t)
	log := NewLog(c, states.LaneNormal, nil)
	fill(t, c, "consult.in.waiting-room.a", 3)
	var replaced *ReplacedError
	err := log.Read(ctx, 4, func(states.Entry) error { return nil })
	if !errors.As(err, &replaced) || replaced.After != 4 || replaced.Last != 3 {
		t.Errorf("beyond the end: %v", err)
	}

	// The stream is created anew while somebody reads it.
	third := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- log.Read(ctx, 2, func(states.Entry) error { close(third); return nil })
	}()
	<-third
	if err := c.JS.DeleteStream(ctx, LogStream); err != nil {
		t.Fatal(err)
	}
	if err := Reconcile(ctx, c.JS, DefaultStreamOptions()); err != nil {
		t.Fatal(err)
	}
	fill(t, c, "consult.in.waiting-room.a", 10)
	if err := <-done; !errors.As(err, &replaced) {
		t.Errorf("created anew: %v", err)
	}
}

func TestReadReportsWhatAgedOut(t *testing.T) {
	_, c := broker(t)
	ctx := testContext(t)
	fill(t, c, "consult.in.waiting-room.a", 10)
	stream, err := c.JS.Stream(ctx, LogStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(6)); err != nil {
		t.Fatal(err)
	}
	stop := errors.New("stop")
	first := func(log *Log, after uint64) (got uint64, err error) {
		err = log.Read(ctx, after, func(e states.Entry) error { got = e.Seq; return stop })
		return got, err
	}
	var lost *LostError
	if _, err := first(NewLog(c, states.LaneNormal, nil), 2); !errors.As(err, &lost) || lost.Lost() != 3 {
		t.Errorf("refused with %v", err)
	}
	asked := 0
	accepting := NewLog(c, states.LaneNormal, func(e *LostError) error { asked++; return nil })
	if got, err := first(accepting, 2); got != 6 || !errors.Is(err, stop) || asked != 1 {
		t.Errorf("accepted: first entry %d, %v, asked %d times", got, err, asked)
	}
	for _, after := range []uint64{0, 5} { // a reader from the beginning, and one that missed nothing
		if got, err := first(accepting, after); got != 6 || !errors.Is(err, stop) || asked != 1 {
			t.Errorf("after %d: first entry %d, %v", after, got, err)
		}
	}
}

// TestAppendAcrossRestartStoresOnce appends while the server is away and when it is killed under the appends.
func TestAppendAcrossRestartStoresOnce(t *testing.T) {
	server, c := broker(t)
	ctx := testContext(t)
	log := NewLog(c, states.LaneNormal, nil)
	const writers = 8
	errs := make(chan error, writers)
	begun := make(chan struct{}, writers)
	killed := make(chan struct{})
	var total atomic.Uint64
	for w := range writers {
		go func() {
			for i, after := 0, 0; after < 10; i++ { // ten of each writer come after the kill
				select {
				case <-killed:
					after++
				default:
				}
				if i == 20 {
					begun <- struct{}{}
				}
				if _, err := log.Append(ctx, "consult.in.waiting-room.a", fmt.Sprintf("%d-%d", w, i), nil, nil); err != nil {
					errs <- err
					return
				}
				total.Add(1)
			}
			errs <- nil
		}()
	}
	for range writers {
		<-begun
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	close(killed)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]int{}
	if last, err := log.LastSeq(ctx); err != nil || last != total.Load() {
		t.Errorf("log ends at %d: %v", last, err)
	}
	r := reader{client: c, stream: LogStream, toEnd: true}
	if err := r.run(ctx, func(m message) error { seen[m.header.Get(HeaderID)]++; return nil }); err != nil {
		t.Fatal(err)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s is stored %d times", id, n)
		}
	}
	if len(seen) != int(total.Load()) {
		t.Errorf("%d of %d are stored", len(seen), total.Load())
	}
}

func TestAppendGivesUp(t *testing.T) {
	_, c := broker(t)
	log := NewLog(c, states.LaneNormal, nil)
	if _, err := log.Append(testContext(t), "consult.in.emergency.er", "x", nil, nil); err == nil {
		t.Error("an entry went into the other lane's log")
	}
	if _, err := log.Append(testContext(t), "consult.in.waiting-room.a", "x", nil, make([]byte, 2<<20)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("too large: %v", err)
	}
}

// TestAppendLeavesNothingBehind: what was reported as failed must not be stored when the connection is back.
func TestAppendLeavesNothingBehind(t *testing.T) {
	server, _ := broker(t)
	c, line := throughProxy(t, server)
	log := NewLog(c, states.LaneNormal, nil)
	line.Stop()
	eventually(t, "the loss is noticed", func() bool { return !c.Conn.IsConnected() })
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := log.Append(ctx, "consult.in.waiting-room.a", "y", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("line cut: %v", err)
	}
	if err := line.Start(); err != nil {
		t.Fatal(err)
	}
	if seq, err := log.Append(testContext(t), "consult.in.waiting-room.a", "z", nil, nil); err != nil || seq != 1 {
		t.Errorf("an append that failed was stored later: the next one is at %d: %v", seq, err)
	}
}

// TestAppendRepeatsUnderOneID makes acknowledgements so late that the first tries count as lost.
func TestAppendRepeatsUnderOneID(t *testing.T) {
	server, _ := broker(t)
	c, line := throughProxy(t, server)
	log := NewLog(c, states.LaneNormal, nil)
	if _, err := line.Toxics.AddToxicJson(strings.NewReader(`{"type":"latency","stream":"downstream","attributes":{"latency":400}}`)); err != nil {
		t.Fatal(err)
	}
	if seq, err := log.Append(testContext(t), "consult.in.waiting-room.a", "", nil, nil); err != nil || seq != 1 {
		t.Fatal(seq, err)
	}
	if last, err := log.LastSeq(testContext(t)); err != nil || last != 1 {
		t.Errorf("stored %d times: %v", last, err)
	}
}

func TestNextAndAt(t *testing.T) {
	_, c := broker(t)
	ctx := testContext(t)
	log := NewLog(c, states.LaneNormal, nil)
	for i, subject := range []string{"consult.log.rules", "consult.in.waiting-room.a", "consult.log.rules"} {
		if seq, err := log.Append(ctx, subject, "", nil, nil); err != nil || seq != uint64(i+1) {
			t.Fatal(seq, err)
		}
	}
	for from, want := range map[uint64]uint64{1: 1, 2: 3, 3: 3, 4: 0} {
		e, ok, err := log.Next(ctx, "consult.log.rules", from)
		if err != nil || ok != (want > 0) || e.Seq != want {
			t.Errorf("next from %d: %d %v %v", from, e.Seq, ok, err)
		}
	}
	if e, ok, err := log.At(ctx, 2); err != nil || !ok || e.Subject != "consult.in.waiting-room.a" {
		t.Errorf("at 2: %+v %v %v", e, ok, err)
	}
	if _, ok, err := log.At(ctx, 9); err != nil || ok {
		t.Errorf("at 9: %v %v", ok, err)
	}
	if _, ok, err := log.Last(ctx, "consult.log.timer.a"); err != nil || ok {
		t.Errorf("last of nothing: %v %v", ok, err)
	}
	subjects, err := log.Subjects(ctx, "consult.in.>")
	if err != nil || !slices.Equal(subjects, []string{"consult.in.waiting-room.a"}) {
		t.Errorf("subjects %v: %v", subjects, err)
	}
}

// BenchmarkRead measures the delivery of entries of 300 bytes with the headers of an app's message.
func BenchmarkRead(b *testing.B) {
	_, c := broker(b)
	data := make([]byte, 300)
	for i := range 50_000 {
		m := &nats.Msg{Subject: "consult.in.waiting-room.a", Data: data, Header: nats.Header{}}
		m.Header.Set(handlers.HeaderActor, "patient-1")
		m.Header.Set(handlers.HeaderSource, "pubnub")
		m.Header.Set(handlers.HeaderTimetoken, "17000000000000000")
		if _, err := c.JS.PublishMsgAsync(m, jetstream.WithMsgID(strconv.Itoa(i)), jetstream.WithStallWait(patience)); err != nil {
			b.Fatal(err)
		}
	}
	<-c.JS.PublishAsyncComplete()
	log := NewLog(c, states.LaneNormal, nil)
	stop := errors.New("stop")
	entries := 0
	b.ReportAllocs()
	for b.Loop() {
		err := log.Read(b.Context(), 0, func(e states.Entry) error {
			entries++
			if e.Seq == 50_000 {
				return stop
			}
			return nil
		})
		if !errors.Is(err, stop) {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(entries)/b.Elapsed().Seconds(), "entries/s")
}
