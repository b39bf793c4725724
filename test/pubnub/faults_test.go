package pubnub_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	standin "consultd/test/pubnub"
)

func (w *wire) inject(fault standin.Fault) {
	w.t.Helper()
	if err := w.s.Inject(fault); err != nil {
		w.t.Fatal(err)
	}
}

// waitForNoGoroutinesOf waits until no goroutine has the text in its stack.
func waitForNoGoroutinesOf(t *testing.T, text string) {
	t.Helper()
	ctx := deadline(t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		stacks := make([]byte, 4<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		if !bytes.Contains(stacks, []byte(text)) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("still running:\n%s", stacks)
		}
	}
}

func TestStatusFaultMatchesFamilyChannelAndCount(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	w.inject(standin.Fault{Match: "publish", Kind: standin.FaultStatus, Status: 429, Channel: "c", After: 1, Times: 2})
	var statuses []int
	for range 4 {
		status, _ := w.do("GET", w.publishPath("c", "1", ""))
		statuses = append(statuses, status)
		if other, _ := w.do("GET", w.publishPath("other", "1", "")); other != 200 {
			t.Errorf("other channel: %d", other)
		}
	}
	if statuses[0] != 200 || statuses[1] != 429 || statuses[2] != 429 || statuses[3] != 200 {
		t.Errorf("statuses %v", statuses)
	}
	if n := len(w.s.Published("c")); n != 2 {
		t.Errorf("%d published, want 2", n)
	}
	if n := w.s.FaultsServed(); n != 2 {
		t.Errorf("served %d", n)
	}
	if n := w.s.Requests()["publish"]; n != 8 {
		t.Errorf("counted %d publishes, want 8", n)
	}
}

func TestForbiddenFaultNamesTheChannelsAsTheServiceDoes(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	w.inject(standin.Fault{Match: "subscribe", Kind: standin.FaultStatus, Status: 403})
	status, body := w.do("GET", subscribePath("a,b", "", ""))
	want := `{"error":true,"message":"Forbidden","payload":{"channels":["a","b"]},"service":"Access Manager","status":403}`
	if status != 403 || body != want {
		t.Errorf("status %d, %s", status, body)
	}
	w.s.ClearFaults()
	if status, _ := w.do("GET", subscribePath("a,b", "", "")); status != 200 {
		t.Errorf("after clearing: %d", status)
	}
}

func TestBrokenBodies(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	w.inject(standin.Fault{Match: "handshake", Kind: standin.FaultHTML, Times: 1})
	if status, body := w.do("GET", subscribePath("a", "", "")); status != 200 || !strings.HasPrefix(body, "<html>") {
		t.Errorf("html: %d %s", status, body)
	}
	w.inject(standin.Fault{Match: "handshake", Kind: standin.FaultEmpty, Times: 1})
	if status, body := w.do("GET", subscribePath("a", "", "")); status != 200 || body != "" {
		t.Errorf("empty: %d %s", status, body)
	}
	w.inject(standin.Fault{Match: "handshake", Kind: standin.FaultCut, Times: 1})
	if _, body, err := w.try(w.ctx, "GET", subscribePath("a", "", "")); err == nil || len(body) == 0 {
		t.Errorf("cut: %q, %v", body, err)
	}
	w.inject(standin.Fault{Match: "handshake", Kind: standin.FaultReset, Times: 1})
	if _, body, err := w.try(w.ctx, "POST", subscribePath("a", "", "")); err == nil {
		t.Errorf("reset: %q", body)
	}
	if b := w.poll("a", "0"); b.Cursor.Timetoken == "" {
		t.Error("not healed")
	}
}

func TestDroppedAnswerLeavesThePublishDone(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	w.inject(standin.Fault{Match: "publish", Kind: standin.FaultDropAnswer, Times: 1})
	if _, _, err := w.try(w.ctx, "POST", w.publishPath("c", "1", "")); err == nil {
		t.Error("answered all the same")
	}
	response, err := http.Post(w.s.URL()+"/publish/"+standin.DefaultPublishKey+"/"+standin.DefaultSubscribeKey+"/0/c/0", "application/json", strings.NewReader("2"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	w.inject(standin.Fault{Match: "publish", Kind: standin.FaultDropAnswer, Times: 1})
	if response, err := http.Post(w.s.URL()+"/publish/"+standin.DefaultPublishKey+"/"+standin.DefaultSubscribeKey+"/0/c/0", "application/json", strings.NewReader("3")); err == nil {
		response.Body.Close()
		t.Error("answered all the same")
	}
	published := w.s.Published("c")
	if len(published) != 2 || string(published[1].Payload) != "3" {
		t.Errorf("published %+v", published)
	}
}

func TestStallHoldsUntilClearedAndLongerForNobody(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	w.inject(standin.Fault{Match: "time", Kind: standin.FaultStall, Times: 1})
	got := make(chan int, 1)
	go func() {
		status, _, err := w.try(w.ctx, "GET", "/time/0")
		if err != nil {
			t.Error(err)
		}
		got <- status
	}()
	waitUntil(t, func() bool { return w.s.FaultsServed() == 1 })
	select {
	case <-got:
		t.Error("answered while stalled")
	default:
	}
	w.s.ClearFaults()
	if status := <-got; status != 200 {
		t.Errorf("status %d", status)
	}
	w.inject(standin.Fault{Match: "time", Kind: standin.FaultStall, Delay: 20 * time.Millisecond})
	began := time.Now()
	if status, _ := w.do("GET", "/time/0"); status != 200 || time.Since(began) < 20*time.Millisecond {
		t.Errorf("status %d after %v", status, time.Since(began))
	}
}

func waitUntil(t *testing.T, ready func() bool) {
	t.Helper()
	ctx := deadline(t)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("waited in vain")
		}
	}
}

func TestCloseEndsAStalledRequest(t *testing.T) {
	s := start(t, standin.Config{})
	w := newWire(t, s)
	w.inject(standin.Fault{Kind: standin.FaultStall})
	ended := make(chan error, 1)
	go func() {
		_, _, err := w.try(w.ctx, "GET", "/time/0")
		ended <- err
	}()
	waitUntil(t, func() bool { return s.FaultsServed() == 1 })
	s.Close()
	if err := <-ended; err == nil {
		t.Error("answered")
	}
}

func TestDeliveryFaults(t *testing.T) {
	w := newWire(t, start(t, standin.Config{LongPoll: 10 * time.Millisecond}))
	tt := w.poll("c", "0").Cursor.Timetoken
	w.put("c", 1)
	w.put("c", 2)
	last := w.put("c", 3)

	w.inject(standin.Fault{Match: "poll", Kind: standin.FaultReorder, Times: 1})
	if b := w.poll("c", tt); b.texts() != "3 2 1" || b.Cursor.Timetoken != last {
		t.Errorf("reorder: %s at %s", b.texts(), b.Cursor.Timetoken)
	}
	w.inject(standin.Fault{Match: "poll", Kind: standin.FaultDuplicate, Times: 1})
	if b := w.poll("c", tt); b.texts() != "1 1 2 2 3 3" {
		t.Errorf("duplicate: %s", b.texts())
	}
	w.inject(standin.Fault{Match: "poll", Kind: standin.FaultLostCursor, Times: 1})
	if b := w.poll("c", tt); len(b.Messages) != 0 || b.Cursor.Timetoken <= last {
		t.Errorf("lost cursor: %s at %s", b.texts(), b.Cursor.Timetoken)
	}
	w.inject(standin.Fault{Match: "publish", Kind: standin.FaultNotLive, Times: 1})
	if status, _ := w.do("GET", w.publishPath("c", "4", "")); status != 200 {
		t.Errorf("not live: status %d", status)
	}
	if b := w.poll("c", last); len(b.Messages) != 0 {
		t.Errorf("not live: delivered %s", b.texts())
	}
	if published := w.s.Published("c"); len(published) != 4 || !published[3].Stored {
		t.Errorf("not live: %+v", published)
	}
}

func TestPoisonReachesAHeldPollAtOnce(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	tt := w.poll("c", "0").Cursor.Timetoken
	got := make(chan batch, 1)
	go func() {
		b, err := w.tryPoll(w.ctx, "c", tt, "")
		if err != nil {
			t.Error(err)
		}
		got <- b
	}()
	if err := w.s.WaitSubscribers(w.ctx, "c", 1); err != nil {
		t.Fatal(err)
	}
	w.inject(standin.Fault{Match: "poll", Kind: standin.FaultPoison, Times: 1, Envelopes: []json.RawMessage{json.RawMessage(`{"c":"c","e":4,"d":{"message":"hi"}}`)}})
	if b := <-got; len(b.Messages) != 1 || b.Messages[0].Event != 4 || b.Cursor.Timetoken <= tt {
		t.Errorf("got %+v", b)
	}
	w.inject(standin.Fault{Match: "poll", Kind: standin.FaultPoison, Times: 1})
	w.put("c", 1)
	if b := w.poll("c", tt); len(b.Messages) != 6 || string(b.Messages[0].Data) != "null" || string(b.Messages[5].Data) != "1" {
		t.Errorf("default poison: %+v", b)
	}
}

func TestUnknownFaultIsRefused(t *testing.T) {
	s := start(t, standin.Config{})
	for _, fault := range []standin.Fault{{Kind: "typo"}, {Kind: standin.FaultStatus, Status: 99}, {Kind: standin.FaultStall, Delay: -1}} {
		if err := s.Inject(fault); err == nil {
			t.Errorf("%+v accepted", fault)
		}
	}
}

func (w *wire) control(method, path, body string) (int, string) {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.ctx, method, w.s.URL()+"/_standin"+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	response, err := w.http.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	var buffer bytes.Buffer
	if _, err := buffer.ReadFrom(response.Body); err != nil {
		w.t.Fatal(err)
	}
	return response.StatusCode, buffer.String()
}

func TestControlOverHTTP(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	if status, body := w.control("POST", "/faults", `{"match":"time","kind":"status","status":500,"times":1}`); status != 200 {
		t.Fatal(body)
	}
	if status, _ := w.do("GET", "/time/0"); status != 500 {
		t.Errorf("fault did not act: %d", status)
	}
	for _, bad := range []string{`{"kind":"typo"}`, `{"kind":"status","chanel":"c"}`, `nonsense`} {
		if status, _ := w.control("POST", "/faults", bad); status != 400 {
			t.Errorf("%s: %d", bad, status)
		}
	}
	if status, body := w.control("POST", "/publish", `{"channel":"c","uuid":"backend","message":{"pn_apns":{}}}`); status != 200 {
		t.Error(body)
	}
	if _, body := w.control("GET", "/published?channel=c", ""); !strings.Contains(body, `"payload":{"pn_apns":{}}`) || !strings.Contains(body, `"uuid":"backend"`) {
		t.Error(body)
	}
	if _, body := w.control("GET", "/requests", ""); body != `{"time":1}` {
		t.Error(body)
	}
	if _, body := w.control("GET", "/subscribers", ""); body != `[]` {
		t.Error(body)
	}
	if _, body := w.control("GET", "", ""); !strings.Contains(body, "development and tests only") || strings.Contains(body, standin.DefaultSecretKey) {
		t.Error(body)
	}
	if status, _ := w.control("DELETE", "/faults", ""); status != 200 || w.s.FaultsServed() != 0 {
		t.Error("faults not cleared")
	}
	if status, _ := w.control("POST", "/forget", ""); status != 200 || len(w.s.Published("c")) != 0 {
		t.Error("not forgotten")
	}
	if status, _ := w.control("GET", "/nothing", ""); status != 404 {
		t.Error("unknown control endpoint")
	}
}

func TestOutageOverHTTPEndsByItself(t *testing.T) {
	w := newWire(t, start(t, standin.Config{}))
	tt := w.poll("c", "0").Cursor.Timetoken
	ended := make(chan error, 1)
	go func() {
		_, err := w.tryPoll(w.ctx, "c", tt, "")
		ended <- err
	}()
	if err := w.s.WaitSubscribers(w.ctx, "c", 1); err != nil {
		t.Fatal(err)
	}
	if status, body := w.control("POST", "/outage", `{"seconds":0.05}`); status != 202 {
		t.Fatal(body)
	}
	if err := <-ended; err == nil {
		t.Error("held poll survived the outage")
	}
	waitUntil(t, func() bool { _, _, err := w.try(w.ctx, "GET", "/time/0"); return err == nil })
}

func TestCloseDuringAnOutageDoesNotHang(t *testing.T) {
	s := start(t, standin.Config{})
	w := newWire(t, s)
	if status, body := w.control("POST", "/outage", `{"seconds":3600}`); status != 202 {
		t.Fatal(body)
	}
	closed := make(chan struct{})
	go func() { s.Close(); close(closed) }()
	select {
	case <-closed:
	case <-w.ctx.Done():
		t.Fatal("Close hangs")
	}
}
