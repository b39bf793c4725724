package clinic

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Wire is the connection between consultd and Redis, to be cut, and to be led to another server as a failover does.
type Wire struct {
	listener net.Listener

	mu     sync.Mutex
	target string
	conns  map[net.Conn]struct{}
	word   []byte
	every  int
	seen   int
	cuts   int
}

func startWire(tb testing.TB, target string) *Wire {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	w := &Wire{listener: l, target: target, conns: map[net.Conn]struct{}{}}
	go w.accept()
	tb.Cleanup(func() {
		_ = l.Close()
		w.Lead("")
	})
	return w
}

// Addr is where consultd connects.
func (w *Wire) Addr() string { return w.listener.Addr().String() }

// Lead cuts every connection, and leads new ones to another server; nowhere when addr is "".
func (w *Wire) Lead(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.target = addr
	for c := range w.conns {
		_ = c.Close()
	}
}

// CutAnswers cuts the connection instead of passing on an answer, each time after so many requests that hold the word
// were executed: what was asked is done, and who asked never hears of it. No request is cut when every is 0.
func (w *Wire) CutAnswers(word string, every int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.word, w.every = []byte(word), every
}

// Cuts counts the answers that were not passed on.
func (w *Wire) Cuts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts
}

func (w *Wire) accept() {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return
		}
		server, ok := w.connect(client)
		if !ok {
			_ = client.Close()
			continue
		}
		var doom atomic.Bool // the next answer is to be cut
		go func() {
			defer w.forget(client, server)
			w.requests(client, server, &doom)
		}()
		go func() {
			defer w.forget(client, server)
			w.answers(client, server, &doom)
		}()
	}
}

func (w *Wire) connect(client net.Conn) (net.Conn, bool) {
	w.mu.Lock()
	target := w.target
	w.mu.Unlock()
	if target == "" {
		return nil, false
	}
	server, err := net.Dial("tcp", target)
	if err != nil {
		return nil, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.target != target { // led elsewhere meanwhile
		_ = server.Close()
		return nil, false
	}
	w.conns[client], w.conns[server] = struct{}{}, struct{}{}
	return server, true
}

func (w *Wire) forget(conns ...net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
		delete(w.conns, c)
	}
}

func (w *Wire) requests(client io.Reader, server io.Writer, doom *atomic.Bool) {
	buf := make([]byte, 256<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if w.doomed(buf[:n]) {
			doom.Store(true)
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (w *Wire) doomed(request []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.every == 0 || !bytes.Contains(request, w.word) {
		return false
	}
	w.seen++
	return w.seen%w.every == 0
}

func (w *Wire) answers(client io.Writer, server io.Reader, doom *atomic.Bool) {
	buf := make([]byte, 256<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		if doom.Load() {
			w.mu.Lock()
			w.cuts++
			w.mu.Unlock()
			return
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}
