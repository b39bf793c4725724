package nats

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"consultd/handlers"
)

// Checkpoint seals a run of the audit stream: whoever holds one can tell whether anything up to it was changed.
type Checkpoint struct {
	ID        string    `json:"id"`
	From      uint64    `json:"from"`                // first stream sequence covered, one above the end of the checkpoint before
	To        uint64    `json:"to"`                  // last stream sequence covered
	Count     int       `json:"count"`               // audit entries covered, repeats included
	Digest    string    `json:"digest"`              // hex SHA-256 over the entries' hashes, a newline after each, in stream order
	Prev      string    `json:"prev"`                // hex SHA-256 of the message of the checkpoint before, "" for the first
	At        time.Time `json:"at"`                  // the notary's clock
	KeyID     string    `json:"keyId,omitempty"`     // "" when unsigned
	Signature []byte    `json:"signature,omitempty"` // Ed25519 over this object as JSON without the signature
}

func (c Checkpoint) signed() []byte {
	c.Signature = nil
	data, err := json.Marshal(c)
	if err != nil { // a struct of strings, numbers and a time after year 0 has a JSON form
		return nil
	}
	return data
}

// KeyID is the name under which checkpoints refer to a public key: the first 16 hex digits of its SHA-256.
func KeyID(key ed25519.PublicKey) string { return hexSum(key)[:16] }

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// The reasons for which a checkpoint is none.
var (
	errUnreadable = errors.New("it is not a checkpoint")
	errSignature  = errors.New("its signature does not match")
	errUnknownKey = errors.New("it is signed with an unknown key")
	errUnsigned   = errors.New("it is not signed")
)

// openCheckpoint reads a checkpoint and checks its signature, if there are keys. An unsigned one proves nothing to
// somebody who has keys: it is passed over as if it were not there.
func openCheckpoint(data []byte, keys map[string]ed25519.PublicKey) (Checkpoint, error) {
	var c Checkpoint
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return c, errUnreadable // the cause could quote the content
	}
	if len(keys) == 0 {
		return c, nil
	}
	if c.KeyID == "" {
		return c, errUnsigned
	}
	key, ok := keys[c.KeyID]
	if !ok {
		return c, fmt.Errorf("%w %.16q", errUnknownKey, c.KeyID)
	}
	if !ed25519.Verify(key, c.signed(), c.Signature) {
		return c, errSignature
	}
	return c, nil
}

// seal is what an entry message contributes to a digest: its entries' hashes, or its own where it cannot be read.
func seal(data []byte) (lines []byte, count int) {
	var m struct {
		Entries []struct {
			Hash string `json:"hash"`
		} `json:"entries"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return append([]byte("!"+hexSum(data)), '\n'), 0
	}
	for _, e := range m.Entries {
		lines = append(append(lines, e.Hash...), '\n')
	}
	return lines, len(m.Entries)
}

// NotaryOptions configures a notary.
type NotaryOptions struct {
	Key     ed25519.PrivateKey  // nil leaves checkpoints unsigned: they show accidents, but no forgery
	Trusted []ed25519.PublicKey // of notaries before this one; needed after a change of keys
	Every   time.Duration       // after which a checkpoint is due when there are new entries; default 1 minute
	Entries int                 // after which a checkpoint is due at once; default 1000
	Now     func() time.Time    // default time.Now
	Log     zerolog.Logger
}

// Notary appends signed checkpoints to the audit stream. Every replica may run one: each checkpoint is appended on the
// condition that the one before it is still the last, so exactly one of them succeeds.
type Notary struct {
	client *Client
	o      NotaryOptions
	keyID  string
	keys   map[string]ed25519.PublicKey

	// Where the stream's last checkpoint stands. It moves only by reading the stream, whoever wrote the checkpoint.
	to     uint64 // end of its coverage
	hash   string // of its message
	fence  uint64 // its stream sequence
	sealed bool   // a checkpoint was appended and is still to be read

	pending []pendingSeal
	entries int // in pending
}

type pendingSeal struct {
	seq   uint64
	lines []byte
	count int
}

// echoTimeout bounds how long a notary waits to read a checkpoint that must be in the stream.
const echoTimeout = 10 * time.Second

// NewNotary is a notary that signs with o.Key.
func NewNotary(c *Client, o NotaryOptions) *Notary {
	if o.Entries <= 0 {
		o.Entries = 1000
	}
	if o.Every <= 0 {
		o.Every = time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	n := &Notary{client: c, o: o, keys: KeyRing(o.Trusted)}
	if len(o.Key) == ed25519.PrivateKeySize {
		if public, ok := o.Key.Public().(ed25519.PublicKey); ok {
			n.keyID = KeyID(public)
			n.keys[n.keyID] = public
		}
	}
	return n
}

// KeyRing is public keys by their ids, as Verify wants them.
func KeyRing(keys []ed25519.PublicKey) map[string]ed25519.PublicKey {
	ring := make(map[string]ed25519.PublicKey, len(keys))
	for _, k := range keys {
		ring[KeyID(k)] = k
	}
	return ring
}

// Run seals the audit stream until ctx ends, and returns nil then. The only other end is a last checkpoint signed with
// a key that is not trusted, which an operator has to look at.
func (n *Notary) Run(ctx context.Context) error {
	pause := retryPause
	for {
		before := n.to
		err := n.pass(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errUnknownKey) {
			return fmt.Errorf("audit notary: last checkpoint: %w: add its public key to the trusted ones", err)
		}
		n.o.Log.Error().Err(err).Msg("audit notary stopped; starting again from the last checkpoint")
		if n.to > before {
			pause = retryPause
		}
		if !sleep(ctx, pause) {
			return nil
		}
		pause = min(2*pause, maxRetryPause)
	}
}

// pass works from the last checkpoint until something goes wrong.
func (n *Notary) pass(ctx context.Context) error {
	if err := n.resume(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	messages := make(chan message)
	ended := make(chan error, 1)
	r := reader{client: n.client, stream: AuditStream, pos: n.to, lost: func(e *LostError) error {
		n.o.Log.Error().Uint64("lost", e.Lost()).Msg("audit entries aged out before they were sealed")
		return nil
	}}
	go func() {
		ended <- r.run(ctx, func(m message) error {
			select {
			case messages <- m:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	stopped := false
	defer func() {
		cancel()
		if !stopped {
			<-ended
		}
	}()

	due := time.NewTimer(n.o.Every)
	defer due.Stop()
	for {
		select {
		case err := <-ended:
			stopped = true
			return err
		case m := <-messages:
			idle := n.sealed || len(n.pending) == 0
			if err := n.see(m); err != nil {
				return err
			}
			if idle && !n.sealed && len(n.pending) > 0 {
				due.Reset(n.o.Every) // counts from the first entry that is to be sealed
			}
			if n.sealed || n.entries < n.o.Entries {
				continue
			}
		case <-due.C:
			if n.sealed {
				return fmt.Errorf("a checkpoint did not come back within %s", echoTimeout)
			}
			if len(n.pending) == 0 {
				continue
			}
		}
		if err := n.append(ctx); err != nil {
			return err
		}
		due.Reset(echoTimeout)
	}
}

// resume finds the last checkpoint.
func (n *Notary) resume(ctx context.Context) error {
	n.to, n.hash, n.fence, n.sealed, n.pending, n.entries = 0, "", 0, false, nil, 0
	tryCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s, err := n.client.JS.Stream(tryCtx, AuditStream)
	if err != nil {
		return fmt.Errorf("look at %s: %w", AuditStream, err)
	}
	last, err := s.GetLastMsgForSubject(tryCtx, handlers.AuditCheckpointSubject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the last checkpoint: %w", err)
	}
	c, err := openCheckpoint(last.Data, n.keys)
	switch {
	case err == nil:
		n.to, n.hash, n.fence = c.To, hexSum(last.Data), last.Sequence
		return nil
	case errors.Is(err, errUnknownKey):
		return err
	}
	// The last one is unsigned or a forgery: go through all of them, counting the good ones.
	all := reader{client: n.client, stream: AuditStream, subject: handlers.AuditCheckpointSubject, toEnd: true}
	return all.run(ctx, n.see)
}

// see takes note of one message of the stream.
func (n *Notary) see(m message) error {
	switch m.subject {
	case handlers.AuditEntrySubject:
		lines, count := seal(m.data)
		n.pending = append(n.pending, pendingSeal{m.seq, lines, count})
		n.entries += count
	case handlers.AuditCheckpointSubject:
		if m.seq <= n.fence {
			return nil // where this pass began
		}
		n.hash, n.fence, n.sealed = hexSum(m.data), m.seq, false
		c, err := openCheckpoint(m.data, n.keys)
		switch {
		case errors.Is(err, errUnknownKey):
			return err
		case errors.Is(err, errUnsigned):
			return nil
		case err != nil, c.To <= n.to || c.To >= m.seq:
			n.o.Log.Error().Err(err).Uint64("seq", m.seq).Msg("the audit stream holds a forged checkpoint; run: consultd audit verify")
			return nil
		}
		n.to = c.To
		n.pending = slices.DeleteFunc(n.pending, func(p pendingSeal) bool { return p.seq <= c.To })
		n.entries = 0
		for _, p := range n.pending {
			n.entries += p.count
		}
	}
	return nil
}

// append seals what is pending. Losing against another notary is no error: its checkpoint is about to be read.
func (n *Notary) append(ctx context.Context) error {
	c := Checkpoint{
		From: n.to + 1, To: n.pending[len(n.pending)-1].seq, Count: n.entries, Prev: n.hash, At: n.o.Now().UTC(), KeyID: n.keyID,
	}
	c.ID = fmt.Sprintf("checkpoint.%d", c.To)
	digest := sha256.New()
	for _, p := range n.pending {
		_, _ = digest.Write(p.lines) // never fails
	}
	c.Digest = hex.EncodeToString(digest.Sum(nil))
	if n.keyID != "" {
		c.Signature = ed25519.Sign(n.o.Key, c.signed())
	}
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode checkpoint: %w", err)
	}
	tryCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err = n.client.JS.PublishMsg(tryCtx, &nats.Msg{Subject: handlers.AuditCheckpointSubject, Data: data},
		jetstream.WithExpectStream(AuditStream), jetstream.WithExpectLastSequencePerSubject(n.fence), jetstream.WithRetryAttempts(0))
	if err != nil && !wrongLast(err) {
		return fmt.Errorf("append checkpoint: %w", err)
	}
	n.sealed = true
	return nil
}

// wrongLast says whether a conditional publication failed on its condition.
func wrongLast(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
