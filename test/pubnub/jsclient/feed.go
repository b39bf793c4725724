package jsclient

import (
	"bytes"
	"sync"
)

// feed hands messages over in order and never makes the process wait for a slow reader.
type feed struct {
	out  chan Message
	more chan struct{}

	mu    sync.Mutex
	items []Message
}

func newFeed() *feed { return &feed{out: make(chan Message), more: make(chan struct{}, 1)} }

func (f *feed) add(m Message) {
	f.mu.Lock()
	f.items = append(f.items, m)
	f.mu.Unlock()
	select {
	case f.more <- struct{}{}:
	default:
	}
}

func (f *feed) take() []Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	items := f.items
	f.items = nil
	return items
}

func (f *feed) run(ended <-chan struct{}) {
	defer close(f.out)
	for {
		for _, m := range f.take() {
			select {
			case f.out <- m:
			case <-ended:
				return
			}
		}
		select {
		case <-f.more:
		case <-ended:
			return
		}
	}
}

// tail keeps the end of what the process writes to stderr.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - tailSize; over > 0 {
		t.text = bytes.Clone(t.text[over:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
