package nats

import (
	"errors"
	"maps"
	"sync"
	"testing"

	"consultd/states"
)

func TestCellComparesAndSwaps(t *testing.T) {
	_, c := broker(t)
	ctx := testContext(t)
	mine, err := NewCell(ctx, c.JS, "pubnub")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := NewCell(ctx, c.JS, "pubnub")
	if err != nil {
		t.Fatal(err)
	}
	if value, revision, err := mine.Load(ctx); err != nil || value != nil || revision != 0 {
		t.Fatalf("empty cell: %q %d %v", value, revision, err)
	}
	first, err := mine.Store(ctx, []byte("a"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := theirs.Store(ctx, []byte("b"), 0); !errors.Is(err, ErrStale) {
		t.Errorf("created twice: %v", err)
	}
	second, err := theirs.Store(ctx, []byte("b"), first)
	if err != nil || second <= first {
		t.Fatal(second, err)
	}
	if _, err := mine.Store(ctx, []byte("c"), first); !errors.Is(err, ErrStale) {
		t.Errorf("stale store: %v", err)
	}
	if value, revision, err := mine.Load(ctx); err != nil || string(value) != "b" || revision != second {
		t.Errorf("now %q %d %v", value, revision, err)
	}
}

// TestCellHasOneWinner lets many writers store over the same revision.
func TestCellHasOneWinner(t *testing.T) {
	_, c := broker(t)
	ctx := testContext(t)
	cell, err := NewCell(ctx, c.JS, "lease")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 16 {
		wg.Go(func() {
			_, err := cell.Store(ctx, []byte("me"), 0)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case !errors.Is(err, ErrStale):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d winners", won)
	}
}

func TestMarksBelongToTheirLog(t *testing.T) {
	_, c := broker(t)
	ctx := testContext(t)
	p := states.Partition{Lane: states.LaneNormal, Number: 7}
	marks, err := NewMarks(ctx, c.JS, LogStream, 64)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := marks.LoadMarks(ctx, p); err != nil || got != nil {
		t.Fatal(got, err)
	}
	want := map[states.Sink]uint64{states.SinkNATS: 5, states.SinkAudit: 3}
	if err := marks.SaveMarks(ctx, p, want); err != nil {
		t.Fatal(err)
	}
	if got, err := marks.LoadMarks(ctx, p); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v %v", got, err)
	}
	if err := c.JS.DeleteStream(ctx, LogStream); err != nil {
		t.Fatal(err)
	}
	if err := Reconcile(ctx, c.JS, DefaultStreamOptions()); err != nil {
		t.Fatal(err)
	}
	marks, err = NewMarks(ctx, c.JS, LogStream, 64)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := marks.LoadMarks(ctx, p); err != nil || got != nil {
		t.Errorf("a new log inherits %v: %v", got, err)
	}
}
