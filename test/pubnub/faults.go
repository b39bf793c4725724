package pubnub

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Kinds of faults. Those marked "request" act before the request does anything, those marked "answer" after it was done
// as usual, also on polls that were being held already.
const (
	FaultStatus     = "status"      // request: Status (503 when 0) with Body, or the service's error body
	FaultHTML       = "html"        // request: 200 (or Status) and an HTML page, as a captive portal or broken proxy sends
	FaultEmpty      = "empty"       // request: 200 (or Status) without a body
	FaultStall      = "stall"       // request: nothing for Delay, for ever when 0, then as usual
	FaultReset      = "reset"       // request: the connection is reset
	FaultCut        = "cut"         // answer: half of it, then the connection is closed
	FaultDropAnswer = "drop-answer" // answer: done, but the connection is reset instead of saying so

	FaultNotLive = "not-live" // publish: confirmed and in history, but no subscriber gets it

	FaultDuplicate  = "duplicate"   // poll with messages: each comes twice
	FaultReorder    = "reorder"     // poll with two or more messages: newest first
	FaultPoison     = "poison"      // poll: Envelopes come first; held polls are answered at once
	FaultLostCursor = "lost-cursor" // poll: the cursor jumps to now; what was waiting is lost to the subscriber
)

func faultKinds() []string {
	return []string{
		FaultStatus, FaultHTML, FaultEmpty, FaultStall, FaultReset, FaultCut, FaultDropAnswer, FaultNotLive,
		FaultDuplicate, FaultReorder, FaultPoison, FaultLostCursor,
	}
}

// Fault is a failure on request. The first fault that matches a request and has uses left is taken; faults of different
// kinds can act on one request.
type Fault struct {
	// Match is the family or operation that fails, named as in Requests; empty or "*" for all.
	Match string `json:"match"`
	Kind  string `json:"kind"`
	// Channel and UUID narrow it to requests that name this channel (or channel group) and come from this user.
	Channel string `json:"channel,omitempty"`
	UUID    string `json:"uuid,omitempty"`
	// After lets so many matching requests pass first. Times is how often the fault acts then, until cleared when 0.
	After int `json:"after,omitempty"`
	Times int `json:"times,omitempty"`

	Status int    `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
	// Delay is for stall; in JSON a number of nanoseconds.
	Delay time.Duration `json:"delay,omitempty"`
	// Envelopes are the elements that poison puts into the answer. Without any, a set is used that crashes Go SDK v7.4.0.
	Envelopes []json.RawMessage `json:"envelopes,omitempty"`
}

type activeFault struct {
	Fault
	cleared chan struct{}
	passed  int
	acted   int
}

type faults struct{ list []*activeFault }

func (f *faults) clear() {
	for _, fault := range f.list {
		close(fault.cleared)
	}
	f.list = nil
}

// take uses up one turn of the first fault of these kinds that matches; mu is held.
func (f *faults) take(c *call, kinds ...string) *activeFault {
	for _, fault := range f.list {
		if !slices.Contains(kinds, fault.Kind) || !fault.matches(c) || fault.Times > 0 && fault.acted >= fault.Times {
			continue
		}
		if fault.passed < fault.After {
			fault.passed++
			continue
		}
		fault.acted++
		return fault
	}
	return nil
}

func (f *activeFault) matches(c *call) bool {
	if f.Match != "" && f.Match != "*" && f.Match != c.family && f.Match != c.op {
		return false
	}
	if f.UUID != "" && f.UUID != c.uuid() {
		return false
	}
	return f.Channel == "" || slices.Contains(c.channels, f.Channel) || slices.Contains(c.groupNames(), f.Channel)
}

// rearrange applies the faults on the order and number of messages; mu is held.
func (f *faults) rearrange(c *call, found []delivery) []delivery {
	if len(found) > 1 && f.take(c, FaultReorder) != nil {
		slices.Reverse(found)
	}
	if f.take(c, FaultDuplicate) != nil {
		twice := make([]delivery, 0, 2*len(found))
		for _, d := range found {
			twice = append(twice, d, d)
		}
		return twice
	}
	return found
}

func (s *Server) takeFault(c *call, kinds ...string) *activeFault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults.take(c, kinds...)
}

// Inject switches a fault on. It fails when the kind is unknown.
func (s *Server) Inject(fault Fault) error {
	if !slices.Contains(faultKinds(), fault.Kind) {
		return fmt.Errorf("inject fault: kind %q is none of %v", fault.Kind, faultKinds())
	}
	if fault.Times < 0 || fault.After < 0 || fault.Delay < 0 || fault.Status != 0 && (fault.Status < 200 || fault.Status > 999) {
		return errors.New("inject fault: negative number, or status not 200 to 999")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.list = append(s.faults.list, &activeFault{Fault: fault, cleared: make(chan struct{})})
	s.wakeAll() // polls being held look whether it concerns them
	return nil
}

// ClearFaults switches all faults off; stalled requests go on as usual.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.clear()
}

// FaultsServed counts how often the faults that are still switched on have acted.
func (s *Server) FaultsServed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for _, fault := range s.faults.list {
		total += fault.acted
	}
	return total
}

// faultBefore gives the answer of a fault that keeps the request from being handled.
func (s *Server) faultBefore(c *call) (answer, bool) {
	fault := s.takeFault(c, FaultStatus, FaultHTML, FaultEmpty, FaultStall, FaultReset)
	if fault == nil {
		return answer{}, false
	}
	status := fault.Status
	switch fault.Kind {
	case FaultStatus:
		if status == 0 {
			status = http.StatusServiceUnavailable
		}
		if fault.Body != "" {
			return answer{status: status, contentType: javascript, body: []byte(fault.Body)}, true
		}
		message := http.StatusText(status)
		if status == http.StatusForbidden {
			return reply(status, object{
				"status": status, "error": true, "service": "Access Manager", "message": message,
				"payload": object{"channels": c.channels},
			}), true
		}
		return refuse(status, "Stand-in", message), true
	case FaultHTML, FaultEmpty:
		if status == 0 {
			status = http.StatusOK
		}
		if fault.Kind == FaultEmpty {
			return answer{status: status, contentType: javascript}, true
		}
		body := fault.Body
		if body == "" {
			body = "<html><head><title>Sign in</title></head><body>This network needs you to sign in.</body></html>"
		}
		return answer{status: status, contentType: "text/html", body: []byte(body)}, true
	case FaultStall:
		return answer{abort: true}, !s.stalled(c, fault)
	default: // FaultReset
		return answer{abort: true}, true
	}
}

// stalled waits a stall out; false when the client or the server went away first.
func (s *Server) stalled(c *call, fault *activeFault) bool {
	var over <-chan time.Time
	if fault.Delay > 0 {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-over:
		return true
	case <-fault.cleared:
		return true
	case <-c.http.Context().Done():
	case <-c.gone:
	}
	return false
}

// faultAfter lets a fault damage the answer of a handled request.
func (s *Server) faultAfter(c *call, a answer) answer {
	if a.abort {
		return a
	}
	fault := s.takeFault(c, FaultCut, FaultDropAnswer)
	switch {
	case fault == nil:
	case fault.Kind == FaultCut:
		a.cut = true
	default:
		a.abort = true
	}
	return a
}

// envelopesFor gives the elements of a poison answer.
func (f *activeFault) envelopesFor(w *waiter) []json.RawMessage {
	if len(f.Envelopes) > 0 {
		return f.Envelopes
	}
	channel := "poison"
	if len(w.Channels) > 0 {
		channel = w.Channels[0]
	}
	tt := strconv.FormatInt(w.Timetoken+1, 10)
	make1 := func(event int, data string) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"a":"2","f":0,"e":%d,"i":"poisoner","p":{"t":%q,"r":12},"k":"poison","c":%q,"b":%q,"d":%s}`,
			event, tt, channel, channel, data))
	}
	return []json.RawMessage{
		make1(0, `null`),
		make1(0, `"UE5FRA=="`),
		make1(2, `{"source":"objects","version":"2.0","event":"set","data":{}}`),
		make1(3, `{"source":"actions","version":"1.0","data":{}}`),
		make1(4, `{"message":"hi","file":{"id":"1","name":"x.txt"}}`),
	}
}
