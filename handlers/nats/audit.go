package nats

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"sync"

	"github.com/nats-io/nats.go"

	"consultd/handlers"
	"consultd/states"
)

// Bounds of one message on the audit stream.
const (
	auditBatch = 128       // decisions
	auditBytes = 256 << 10 // of entries
)

// Around the entries of a decision, as package handlers writes them.
var (
	auditHead = []byte(`{"entries":[`)
	auditTail = []byte(`]}`)
)

// Audit says what is to be audited on the audit stream. What waits together travels together, in one message, because
// every decision has something to say here. It is safe for concurrent use.
type Audit struct {
	p *Publisher

	mu      sync.Mutex
	waiting []*auditJob
	busy    bool // a writer is under way
}

type auditJob struct {
	ctx  context.Context
	m    states.Message
	done chan error
}

// NewAudit is the audit stream over a connection.
func NewAudit(c *Client) *Audit {
	return &Audit{p: &Publisher{client: c, wire: func(m states.Message) (*nats.Msg, error) {
		return &nats.Msg{Subject: handlers.AuditEntrySubject, Data: m.Payload, Header: nats.Header{}}, nil
	}}}
}

// Publish returns when the entries of all messages are stored, in the order given. Messages of one caller are never
// overtaken by its later ones, as long as it calls one at a time.
func (a *Audit) Publish(ctx context.Context, ms []states.Message) error {
	for _, m := range ms {
		j := &auditJob{ctx, m, make(chan error, 1)}
		a.mu.Lock()
		a.waiting = append(a.waiting, j)
		start := !a.busy
		a.busy = true
		a.mu.Unlock()
		if start {
			go a.write()
		}
		select {
		case err := <-j.done:
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// write writes batch after batch until nothing waits.
func (a *Audit) write() {
	for {
		batch := a.take()
		if batch == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*ackTimeout)
		err := a.p.Publish(ctx, []states.Message{join(batch)})
		cancel()
		for _, j := range batch {
			j.done <- err
		}
	}
}

// take takes what goes into the next message; nil, and the writer is done, when nothing waits.
func (a *Audit) take() []*auditJob {
	a.mu.Lock()
	defer a.mu.Unlock()
	var batch []*auditJob
	size := 0
	for len(a.waiting) > 0 && len(batch) < auditBatch {
		j := a.waiting[0]
		if j.ctx.Err() == nil {
			if size += len(j.m.Payload); size > auditBytes && len(batch) > 0 {
				break
			}
			batch = append(batch, j)
		}
		a.waiting = a.waiting[1:]
	}
	if len(batch) == 0 {
		a.waiting, a.busy = nil, false
	}
	return batch
}

// join makes one message of many. Its id is made from all of theirs: a repeat of some of them together with others is
// another message, and must not be taken for the first.
func join(batch []*auditJob) states.Message {
	if len(batch) == 1 {
		return batch[0].m
	}
	id := sha256.New()
	payload := bytes.NewBuffer(append([]byte(nil), auditHead...))
	for i, j := range batch {
		_, _ = id.Write([]byte(j.m.ID + "\n"))
		if i > 0 {
			payload.WriteByte(',')
		}
		payload.Write(bytes.TrimSuffix(bytes.TrimPrefix(j.m.Payload, auditHead), auditTail))
	}
	payload.Write(auditTail)
	return states.Message{ID: "audit." + hex.EncodeToString(id.Sum(nil)[:16]), Payload: payload.Bytes()}
}
