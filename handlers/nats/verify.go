package nats

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"slices"

	"consultd/handlers"
	"consultd/states"
)

// maxFindings bounds a report; the first finding is what matters.
const maxFindings = 100

// VerifyOptions says what to verify.
type VerifyOptions struct {
	Keys   map[string]ed25519.PublicKey // by key id; see KeyRing. Without any, signatures are not checked
	Stream string                       // default CONSULT_AUDIT
	// Anchor is the Head of an earlier report, kept outside: it shows whether the whole stream was exchanged. "" skips that.
	Anchor   string
	Progress func(done, total uint64) // stream sequences; may be nil
}

// Report is what a verification found.
type Report struct {
	First, Last uint64 // stream sequences looked at
	Entries     int    // distinct audit entries
	Repeats     int    // entries stored more than once, with the same content
	Chains      int
	Checkpoints int
	Unsigned    int    // checkpoints that prove nothing because nobody signed them
	Unsealed    int    // entries behind the last checkpoint, held together by their chains only
	AgedOut     uint64 // stream sequences that the stream has forgotten by age; what they held is not verified
	Head        string // hash of the last checkpoint; keep it outside as the next Anchor
	Findings    []Finding
}

// OK says that nothing is wrong.
func (r Report) OK() bool { return len(r.Findings) == 0 }

// Finding is one thing that is wrong. Chain and Seq are empty where no entry can be named.
type Finding struct {
	StreamSeq uint64
	Chain     string
	Seq       int64
	Problem   string
}

// String names the place and the problem.
func (f Finding) String() string {
	if f.Chain == "" {
		return fmt.Sprintf("stream sequence %d: %s", f.StreamSeq, f.Problem)
	}
	return fmt.Sprintf("stream sequence %d: entry %d of chain %s %s", f.StreamSeq, f.Seq, f.Chain, f.Problem)
}

// Verify reads the audit stream from its beginning to its present end and checks every entry's hash, every chain and
// every checkpoint. What is wrong is in the report, first finding first; the error says why it could not be read.
// Memory grows with the number of chains and checkpoints, not with entries.
func Verify(ctx context.Context, c *Client, o VerifyOptions) (Report, error) {
	if o.Stream == "" {
		o.Stream = AuditStream
	}
	tryCtx, cancel := context.WithTimeout(ctx, requestTimeout)
	s, err := c.JS.Stream(tryCtx, o.Stream)
	cancel()
	if err != nil {
		return Report{}, fmt.Errorf("verify %s: %w", o.Stream, err)
	}
	info := s.CachedInfo()
	v := &verifier{
		o: o, heads: map[string]states.Chain{}, repeats: map[place][]byte{}, gap: -1, digest: sha256.New(),
		report: Report{First: max(info.State.FirstSeq, 1), Last: info.State.LastSeq},
		forget: info.Config.MaxAge > 0,
	}
	if v.report.First > 1 {
		if v.forget {
			v.report.AgedOut = v.report.First - 1
		} else {
			v.missing(1, v.report.First-1)
		}
	}
	v.next = v.report.First

	read := func(subject string, see func(message)) error {
		r := reader{client: c, stream: o.Stream, subject: subject, toEnd: true}
		if err := r.run(ctx, func(m message) error {
			if m.seq <= v.report.Last {
				see(m)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("verify %s: %w", o.Stream, err)
		}
		return nil
	}
	if err := read(handlers.AuditCheckpointSubject, v.checkpoint); err != nil {
		return Report{}, err
	}
	if err := read("", v.message); err != nil {
		return Report{}, err
	}
	v.end()
	if len(v.repeats) > 0 {
		if err := read(handlers.AuditEntrySubject, v.compareRepeats); err != nil {
			return Report{}, err
		}
	}
	v.report.Chains = len(v.heads)
	slices.SortStableFunc(v.report.Findings, func(a, b Finding) int { return cmp.Compare(a.StreamSeq, b.StreamSeq) })
	return v.report, nil
}

type verifier struct {
	o      VerifyOptions
	report Report
	forget bool // the stream forgets by age, so that it may begin in the middle

	checkpoints []covered // still to be compared, in stream order
	last        covered   // the last good checkpoint
	digest      hash.Hash // over the entries of checkpoints[0] read so far
	count       int

	heads   map[string]states.Chain
	next    uint64 // stream sequence expected
	gap     int    // index of the finding of a gap whose missing entry is not yet named, -1
	repeats map[place][]byte
}

// covered is what a good checkpoint says about the entries from one stream sequence to another.
type covered struct {
	seq, from, to uint64
	count         int
	digest        string
}

type place struct {
	chain string
	seq   int64
}

func (v *verifier) find(f Finding) {
	if len(v.report.Findings) < maxFindings {
		v.report.Findings = append(v.report.Findings, f)
	}
}

// missing reports stream sequences that hold nothing although they once did.
func (v *verifier) missing(from, to uint64) {
	v.find(Finding{StreamSeq: from, Problem: fmt.Sprintf("messages %d to %d were removed from the stream", from, to)})
	v.gap = len(v.report.Findings) - 1
}

// checkpoint checks one checkpoint by itself and against the one before.
func (v *verifier) checkpoint(m message) {
	first := v.report.Checkpoints == 0
	v.report.Checkpoints++
	middle := first && v.report.AgedOut > 0 // the one before it has aged out
	prev := v.report.Head
	v.report.Head = hexSum(m.data)
	if v.o.Anchor == v.report.Head {
		v.o.Anchor = ""
	}
	c, err := openCheckpoint(m.data, v.o.Keys)
	if errors.Is(err, errUnsigned) {
		v.report.Unsigned++
		return
	}
	if err != nil {
		v.find(Finding{StreamSeq: m.seq, Problem: "checkpoint is not genuine: " + err.Error()})
		return
	}
	switch {
	case c.Prev != prev && !middle:
		v.find(Finding{StreamSeq: m.seq, Problem: "checkpoint does not follow the checkpoint before it: one was removed, inserted or changed"})
	case c.From != v.last.to+1 && !middle:
		v.find(Finding{StreamSeq: m.seq, Problem: fmt.Sprintf("checkpoint begins at %d, but the one before it ended at %d", c.From, v.last.to)})
	case c.To < c.From || c.To >= m.seq:
		v.find(Finding{StreamSeq: m.seq, Problem: fmt.Sprintf("checkpoint covers %d to %d, which is not before it", c.From, c.To)})
		return
	}
	v.last = covered{seq: m.seq, from: c.From, to: c.To, count: c.Count, digest: c.Digest}
	v.checkpoints = append(v.checkpoints, v.last)
}

// message checks one message of the whole stream.
func (v *verifier) message(m message) {
	if v.o.Progress != nil {
		v.o.Progress(m.seq, v.report.Last)
	}
	if m.seq > v.next {
		v.missing(v.next, m.seq-1)
	}
	v.next = m.seq + 1
	v.close(m.seq - 1)
	if m.subject != handlers.AuditEntrySubject {
		return
	}
	lines, count := seal(m.data)
	switch {
	case len(v.checkpoints) == 0:
		v.report.Unsealed += count
	case m.seq >= v.checkpoints[0].from:
		_, _ = v.digest.Write(lines) // never fails
		v.count += count
	}
	entries, ok := auditEntries(m.data)
	if !ok {
		v.find(Finding{StreamSeq: m.seq, Problem: "the message does not hold audit entries: forged or damaged"})
		return
	}
	for i := range entries {
		v.entry(m.seq, &entries[i])
	}
}

// close compares the checkpoints whose coverage ends at or before a stream sequence.
func (v *verifier) close(seq uint64) {
	for len(v.checkpoints) > 0 && v.checkpoints[0].to <= seq {
		c := v.checkpoints[0]
		sum := hex.EncodeToString(v.digest.Sum(nil))
		if (sum != c.digest || v.count != c.count) && c.from >= v.report.First {
			v.find(Finding{StreamSeq: c.seq, Problem: fmt.Sprintf(
				"checkpoint over %d to %d does not match: it sealed %d entries, now there are %d, or others; they were changed, removed or inserted afterwards",
				c.from, c.to, c.count, v.count)})
		}
		v.checkpoints = v.checkpoints[1:]
		v.digest.Reset()
		v.count = 0
	}
}

func (v *verifier) entry(streamSeq uint64, e *states.AuditEntry) {
	problem := func(seq int64, format string, args ...any) {
		v.find(Finding{StreamSeq: streamSeq, Chain: e.Chain, Seq: seq, Problem: fmt.Sprintf(format, args...)})
	}
	if e.Hash != e.Sum() {
		problem(e.Seq, "was changed: its hash does not match its content")
	}
	head, known := v.heads[e.Chain]
	if known && e.Seq <= head.Seq {
		v.report.Repeats++
		if e.Seq != head.Seq || e.Hash != head.Hash {
			v.repeats[place{e.Chain, e.Seq}] = nil // compare with the original later
		}
		return
	}
	v.report.Entries++
	switch {
	case e.Seq != head.Seq+1 && !known && v.report.AgedOut > 0:
		// the chain's beginning has aged out
	case e.Seq != head.Seq+1:
		if v.gap >= 0 { // the hole in the stream is where it was
			f := &v.report.Findings[v.gap]
			f.Chain, f.Seq, v.gap = e.Chain, head.Seq+1, -1
			f.Problem = "is missing: " + f.Problem
		} else {
			problem(head.Seq+1, "is missing or not in its place: entry %d comes instead", e.Seq)
		}
	case e.Prev != head.Hash:
		problem(e.Seq, "does not follow the entry before it: one of them was exchanged")
	}
	v.heads[e.Chain] = states.Chain{Seq: e.Seq, Hash: e.Hash}
}

// end checks what only the end of the stream can show.
func (v *verifier) end() {
	if v.next <= v.report.Last {
		v.missing(v.next, v.report.Last)
	}
	v.close(v.report.Last)
	if v.o.Anchor != "" {
		v.find(Finding{StreamSeq: v.report.Last, Problem: "the checkpoint kept as anchor is not in the stream: it was exchanged or cut"})
	}
}

// compareRepeats compares entries that were stored more than once. A store that lost its last writes decides the same
// entries again, identically; anything else is a forgery.
func (v *verifier) compareRepeats(m message) {
	entries, _ := auditEntries(m.data)
	for i := range entries {
		e := &entries[i]
		at := place{e.Chain, e.Seq}
		original, asked := v.repeats[at]
		switch {
		case !asked:
		case original == nil:
			v.repeats[at] = []byte(e.Hash)
		case string(original) != e.Hash:
			v.find(Finding{StreamSeq: m.seq, Chain: e.Chain, Seq: e.Seq, Problem: "is stored a second time with other content: one of them is forged"})
		}
	}
}

func auditEntries(data []byte) ([]states.AuditEntry, bool) {
	var body struct {
		Entries []states.AuditEntry `json:"entries"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil || dec.More() || len(body.Entries) == 0 {
		return nil, false
	}
	return body.Entries, true
}
