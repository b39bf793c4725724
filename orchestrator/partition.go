package orchestrator

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"consultd/orchestrator/crash"
	"consultd/states"
)

const (
	queueLength   = 256             // entries read ahead per partition
	cacheLength   = 2048            // records a partition remembers between decisions
	advanceEvery  = 2 * time.Second // how often an idle partition moves its position on, and notices a store that lost writes
	finishWithin  = 2 * time.Second // for the entry in hand, once the partition is asked to stop
	backlogPause  = 20 * time.Millisecond
	conflictLimit = 16
)

// errStopped ends a partition's work on an entry: the partition is no longer this replica's.
var errStopped = errors.New("partition stopped")

// partition decides one slice of the log, strictly in order, one entry at a time. That one goroutine is why its position
// is simply the last committed entry, and why a decision may trust the records it remembers from the one before: whatever
// else may write them is caught by the epoch and version checks of the commit.
type partition struct {
	id    states.Partition
	lane  *lane
	log   zerolog.Logger
	epoch int64

	// Owned by the reader, under lane.mu where others look on.
	cursor uint64
	joined atomic.Bool // takes part in the reader's present pass

	leftOut atomic.Bool // was left out of a pass because its queue stayed full

	in       chan states.Entry
	quit     chan struct{} // closed to ask the decider to stop after the entry in hand
	stopped  chan struct{} // closed when the decider has stopped
	quitOnce sync.Once

	// Owned by the decider.
	inside   bool   // it has passed the lane's gate
	position uint64 // last committed entry
	commits  int64  // commits known to be stored
	rules    *states.Rules
	rulesSeq uint64
	records  map[states.RecordID]states.Record
	pairs    map[[2]string]string

	relays map[states.Sink]*relay
	marked map[states.Sink]uint64 // marks last saved; owned by the lane's marking loop
}

func newPartition(l *lane, id states.Partition, lease states.Lease, rules *states.Rules, rulesSeq uint64, marks map[states.Sink]uint64) *partition {
	p := &partition{
		id: id, lane: l, epoch: lease.Epoch,
		log:      l.log.With().Int("partition", id.Number).Logger(),
		cursor:   lease.Seq,
		in:       make(chan states.Entry, queueLength),
		quit:     make(chan struct{}),
		stopped:  make(chan struct{}),
		position: lease.Seq,
		commits:  lease.Commits,
		rules:    rules,
		rulesSeq: rulesSeq,
		records:  map[states.RecordID]states.Record{},
		pairs:    map[[2]string]string{},
		relays:   map[states.Sink]*relay{},
	}
	for sink, publisher := range l.Sinks {
		p.relays[sink] = newRelay(p, sink, publisher, marks[sink])
	}
	return p
}

func (p *partition) start() {
	for _, r := range p.relays {
		r.start()
	}
	go p.decideLoop()
}

// abandon makes the partition stop because it may no longer be this replica's.
func (p *partition) abandon(why string) {
	p.quitOnce.Do(func() {
		p.log.Warn().Str("reason", why).Msg("partition given up")
		close(p.quit)
	})
}

// stop lets the entry in hand be committed and the relays deliver what they have, at most for the given time.
func (p *partition) stop(drain time.Duration) {
	p.quitOnce.Do(func() { close(p.quit) })
	<-p.stopped
	var wg sync.WaitGroup
	for _, r := range p.relays {
		wg.Go(func() { r.stop(drain) })
	}
	wg.Wait()
}

func (p *partition) isStopped() bool {
	select {
	case <-p.stopped:
		return true
	default:
		return false
	}
}

func (p *partition) decideLoop() {
	defer close(p.stopped)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // what is in hand may finish, unless the store keeps silent
		select {
		case <-p.quit:
		case <-ctx.Done():
			return
		}
		grace := time.NewTimer(finishWithin)
		defer grace.Stop()
		select {
		case <-grace.C:
			cancel()
		case <-ctx.Done():
		}
	}()
	tick := time.NewTicker(advanceEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.quit:
			return
		case e := <-p.in:
			if err := p.decide(ctx, e); err != nil {
				p.abandon(err.Error())
				return
			}
			if len(p.in) == 0 && p.leftOut.Swap(false) {
				p.log.Info().Msg("partition keeps up again")
				p.lane.restartPass()
			}
		case <-tick.C:
			if err := p.advance(ctx); err != nil {
				return
			}
		}
	}
}

// advance moves an idle partition's position past entries that are not its own. Reading l.read before looking at the
// queue matters: what the reader has counted is then either decided or still in the queue.
func (p *partition) advance(ctx context.Context) error {
	if !p.joined.Load() {
		return nil
	}
	read := p.lane.read.Load()
	if len(p.in) > 0 {
		return nil
	}
	_, err := p.commit(ctx, &states.Commit{Seq: max(read, p.position)})
	return err
}

// decide takes one entry from the log to its commit.
func (p *partition) decide(ctx context.Context, e states.Entry) error {
	if e.Seq <= p.position {
		return nil
	}
	if err := p.awaitRelays(ctx); err != nil {
		return err
	}
	codec := p.lane.engine.Codec
	if e.Subject == codec.RulesSubject(p.lane.Lane) {
		return p.changeRules(ctx, e)
	}
	p.enter()
	defer p.leave()
	ev, err := p.read(e)
	if err != nil {
		return p.refuseEntry(ctx, e, err)
	}
	for attempt := range conflictLimit {
		commit, err := p.prepare(ctx, e, ev, attempt == 0)
		if err != nil {
			return err
		}
		crash.Point("decided")
		stored, err := p.commit(ctx, commit)
		if err != nil {
			return err
		}
		if stored.Outcome == states.Conflict {
			p.lane.metrics.conflicts.Inc()
			if commit.Decision != nil {
				delete(p.records, commit.Decision.Record.ID)
			}
			continue
		}
		p.settle(e, ev, commit, stored)
		return nil
	}
	return fmt.Errorf("entry %d: %d version conflicts in a row", e.Seq, conflictLimit)
}

// enter waits for the lane's gate, and leave opens it for another. Whoever waits for the store waits outside.
func (p *partition) enter() {
	if p.lane.gate != nil {
		p.lane.gate <- struct{}{}
		p.inside = true
	}
}

func (p *partition) leave() {
	if p.inside {
		<-p.lane.gate
		p.inside = false
	}
}

// read decodes an entry. One that makes the decoder panic is refused like any other that cannot be read: with the process
// it would bring down every lane, again after each restart.
func (p *partition) read(e states.Entry) (ev states.Event, err error) {
	defer func() {
		if r := recover(); r != nil {
			p.lane.metrics.panics.Inc()
			p.log.Error().Uint64("seq", e.Seq).Bytes("stack", debug.Stack()).Msg("reading an entry panicked")
			err = errors.New("the decoder panicked")
		}
	}()
	codec := p.lane.engine.Codec
	if ev, err = codec.Decode(e); err == nil {
		codec.ResolveRole(p.rules, &ev)
	}
	return ev, err
}

// prepare resolves the record that an event is about, decides, and encodes what follows. Whatever panics on the way is
// that entry's own fault and becomes a dead letter, so that nothing behind it waits.
//
// The first time, a record that is about to be made is taken for absent without asking the store: the version check of the
// commit answers for free, and the second time the store is asked.
func (p *partition) prepare(ctx context.Context, e states.Entry, ev states.Event, first bool) (c *states.Commit, err error) {
	defer func() {
		if r := recover(); r != nil {
			p.lane.metrics.panics.Inc()
			p.log.Error().Uint64("seq", e.Seq).Str("event", string(ev.Kind)).Bytes("stack", debug.Stack()).Msg("decision panicked; entry goes to the dead letters")
			c, err = p.undecided(e, ev, "PANIC", "the decision panicked; see the daemon's log for the stack"), nil
		}
	}()
	record, facts, err := p.resolve(ctx, ev, first)
	if err != nil {
		return nil, err
	}
	decision, err := states.Decide(p.rules, record, ev, facts)
	if err != nil {
		return p.undecided(e, ev, "UNDECIDABLE", err.Error()), nil
	}
	if decision.Record.Version == record.Version { // a stale timer: nothing to remember but the position
		return &states.Commit{Seq: e.Seq, Fired: ev.Timer}, nil
	}
	outbox, err := p.lane.engine.Codec.Encode(p.rules, ev, &decision)
	if err != nil {
		return p.undecided(e, ev, "UNENCODABLE", err.Error()), nil
	}
	for sink := range outbox {
		if p.relays[sink] == nil { // not configured: nobody would ever take it out
			delete(outbox, sink)
		}
	}
	c = &states.Commit{Seq: e.Seq, Event: ev.ID, Decision: &decision, Fired: ev.Timer, Outbox: outbox}
	if decision.Expire {
		c.Keep = 2 * p.rules.Timing.KeepClosed
	}
	return c, nil
}

// resolve finds the record that an event is about: the visit of its appointment or of its channel's pair, the escalation
// it names, or the desk where events about nobody known are audited.
func (p *partition) resolve(ctx context.Context, ev states.Event, first bool) (states.Record, states.Facts, error) {
	var facts states.Facts
	id := states.RecordID{Kind: states.KindDesk, ID: ev.Provider}
	switch {
	case ev.Kind == states.TimerFired:
		id = ev.Timer.Record
	case p.id.Lane == states.LaneEmergency:
		id.ID = emergencyDesk(ev.Department)
		if ev.Escalation != "" {
			id = states.EscalationRecord(ev.Department, ev.Escalation)
		}
	case ev.Appointment != "":
		id = states.RecordID{Kind: states.KindVisit, ID: ev.Appointment}
	case ev.Provider != "" && ev.Patient != "":
		holder, err := p.pair(ctx, ev.Provider, ev.Patient)
		if err != nil {
			return states.Record{}, facts, err
		}
		if holder != "" {
			id = states.RecordID{Kind: states.KindVisit, ID: holder}
		}
	}
	record, remembered := p.records[id]
	makes := ev.Kind == states.AppointmentScheduled || ev.Kind == states.EmergencyEscalation
	if record.ID = id; !remembered && !(first && makes) {
		var err error
		if record, err = p.record(ctx, id); err != nil {
			return record, facts, err
		}
	}
	record = p.forget(record, ev.At)
	var err error
	switch {
	case ev.Kind == states.PatientCheckedIn && (record.Visit == nil || record.Visit.Provider == ev.Provider):
		facts.PairHolder, err = p.pair(ctx, ev.Provider, ev.Patient)
	case record.Visit != nil && ev.Provider != "" && record.Visit.Provider != ev.Provider:
		// Another partition's visit, whatever the message claims: only its own partition writes it.
		record, err = p.record(ctx, states.RecordID{Kind: states.KindDesk, ID: ev.Provider})
	case record.Visit == nil && id.Kind == states.KindVisit && ev.Kind != states.AppointmentScheduled:
		record, err = p.record(ctx, states.RecordID{Kind: states.KindDesk, ID: ev.Provider})
	case record.Escalation == nil && id.Kind == states.KindEscalation && ev.Kind != states.EmergencyEscalation:
		record, err = p.record(ctx, states.RecordID{Kind: states.KindDesk, ID: emergencyDesk(ev.Department)})
	}
	return record, facts, err
}

// forget takes a record that was final for too long for absent. The store forgets it as well, some time later; what is
// decided must not depend on when.
func (p *partition) forget(r states.Record, now time.Time) states.Record {
	keep := p.rules.Timing.KeepClosed
	if since, final := r.Closed(); final && keep > 0 && now.Sub(since) > keep {
		return states.Record{ID: r.ID, Version: r.Version}
	}
	return r
}

// emergencyDesk is a department's desk, which no provider of the same id shares: the lanes never write one record.
func emergencyDesk(department string) string { return "emergency." + department }

func (p *partition) record(ctx context.Context, id states.RecordID) (states.Record, error) {
	if r, ok := p.records[id]; ok {
		return r, nil
	}
	var found []states.Record
	err := p.insist(ctx, "load", func() (err error) {
		found, err = p.lane.Store.Load(ctx, id)
		return err
	})
	if err != nil {
		return states.Record{}, err
	}
	return found[0], nil
}

func (p *partition) pair(ctx context.Context, provider, patient string) (string, error) {
	if holder, ok := p.pairs[[2]string{provider, patient}]; ok {
		return holder, nil
	}
	var holder string
	err := p.insist(ctx, "pair", func() (err error) {
		holder, err = p.lane.Store.Pair(ctx, provider, patient)
		return err
	})
	return holder, err
}

// refuseEntry deals with an entry that can never be decided.
func (p *partition) refuseEntry(ctx context.Context, e states.Entry, why error) error {
	code, detail := "UNREADABLE", "the entry could not be read"
	var refusal Refusal
	if errors.As(why, &refusal) {
		if refusal.Ignored() {
			return p.commitAndSettle(ctx, e, &states.Commit{Seq: e.Seq})
		}
		code, detail = refusal.RefusalCode(), refusal.RefusalDetail()
	}
	return p.commitAndSettle(ctx, e, p.deadLetter(e, code, detail))
}

func (p *partition) deadLetter(e states.Entry, code, detail string) *states.Commit {
	p.lane.metrics.deadLetters.WithLabelValues(code).Inc()
	p.log.Warn().Uint64("seq", e.Seq).Str("code", code).Str("detail", detail).Msg("entry goes to the dead letters")
	return &states.Commit{Seq: e.Seq, Outbox: map[states.Sink][]states.Message{
		states.SinkNATS: {p.lane.engine.Codec.DeadLetter(e, code, detail)},
	}}
}

// undecided is the dead letter of an event that could be read but not decided. The row of a visit's timer goes with it, or
// it would come again for ever; an escalation's timer does come again, because nobody may wait for a page in silence.
func (p *partition) undecided(e states.Entry, ev states.Event, code, detail string) *states.Commit {
	c := p.deadLetter(e, code, detail)
	if ev.Timer.Record.Kind == states.KindVisit {
		c.Fired = ev.Timer
	}
	return c
}

func (p *partition) changeRules(ctx context.Context, e states.Entry) error {
	rules, err := parseRules(e)
	if err != nil {
		return p.refuseEntry(ctx, e, err)
	}
	if err := p.commitAndSettle(ctx, e, &states.Commit{Seq: e.Seq, RulesSeq: e.Seq}); err != nil {
		return err
	}
	p.rules, p.rulesSeq = rules, e.Seq
	return nil
}

func (p *partition) commitAndSettle(ctx context.Context, e states.Entry, c *states.Commit) error {
	stored, err := p.commit(ctx, c)
	if err == nil {
		p.settle(e, states.Event{}, c, stored)
	}
	return err
}

// commit stores a commit, repeating it until the store answers: a repeat of one that was applied without an answer is
// recognised by its position. It returns errStopped when the partition is no longer ours.
func (p *partition) commit(ctx context.Context, c *states.Commit) (states.Stored, error) {
	c.Claim = states.Claim{Partition: p.id, Epoch: p.epoch, Floor: p.commits}
	if c.RulesSeq == 0 {
		c.RulesSeq = p.rulesSeq
	}
	var stored states.Stored
	repeated := false
	start := time.Now()
	err := p.insist(ctx, "commit", func() (err error) {
		stored, err = p.lane.Store.Commit(ctx, c)
		repeated = repeated || err != nil
		return err
	})
	if err != nil {
		return stored, err
	}
	p.lane.metrics.commitSeconds.Observe(time.Since(start).Seconds())
	if idle := c.Decision == nil && len(c.Outbox) == 0 && c.Fired == (states.TimerID{}); !idle || stored.Outcome != states.Replayed {
		p.lane.metrics.commits.WithLabelValues(string(stored.Outcome)).Inc()
	}
	switch stored.Outcome {
	case states.Fenced, states.Rewound:
		p.abandon(string(stored.Outcome))
		return stored, errStopped
	case states.Committed, states.Duplicate:
		p.position = c.Seq
		p.commits = stored.Entry
		crash.Point("committed")
	case states.Replayed:
		p.position = max(p.position, c.Seq)
		if repeated { // it was ours, applied without an answer: only the store knows what it made
			p.commits = stored.Entry
			clear(p.records)
			clear(p.pairs)
			p.lane.sweeper.wake(time.Time{})
			for _, r := range p.relays {
				r.rescan()
			}
		}
	}
	return stored, nil
}

// settle remembers what a commit made and hands its messages to the relays.
func (p *partition) settle(e states.Entry, ev states.Event, c *states.Commit, stored states.Stored) {
	if c.Fired != (states.TimerID{}) {
		p.lane.sweeper.settled(c.Fired)
	}
	if stored.Outcome != states.Committed {
		return
	}
	if d := c.Decision; d != nil {
		p.remember(d)
		p.lane.metrics.decided(ev, d, time.Since(e.At))
		for _, t := range d.Timers {
			if !t.Due.IsZero() {
				p.lane.sweeper.wake(t.Due)
			}
		}
	}
	for sink, messages := range c.Outbox {
		if r := p.relays[sink]; r != nil && len(messages) > 0 {
			r.offer(states.Pending{Partition: p.id, Sink: sink, Entry: stored.Entry, Seq: c.Seq, Messages: messages})
		}
	}
	crash.Point("handed")
}

func (p *partition) remember(d *states.Decision) {
	if len(p.records) >= cacheLength {
		clear(p.records)
		clear(p.pairs)
	}
	if d.Expire {
		delete(p.records, d.Record.ID)
	} else {
		p.records[d.Record.ID] = d.Record
	}
	if pc := d.Pair; pc != nil {
		if pc.Clear {
			delete(p.pairs, [2]string{pc.Provider, pc.Patient})
		} else {
			p.pairs[[2]string{pc.Provider, pc.Patient}] = pc.Appointment
		}
	}
}

// awaitRelays pauses while a sink is so far behind that the outbox would outgrow its bound.
func (p *partition) awaitRelays(ctx context.Context) error {
	paused := false
	for _, r := range p.relays {
		for r.backlog() > p.lane.Backlog {
			if !paused {
				paused = true
				p.log.Warn().Str("sink", string(r.sink)).Msg("outbox at its bound; partition pauses until the sink catches up")
			}
			select {
			case <-time.After(backlogPause):
			case <-ctx.Done():
				return errStopped
			}
		}
	}
	return nil
}

// insist repeats an operation on the store until it answers or the partition stops.
func (p *partition) insist(ctx context.Context, what string, op func() error) error {
	if p.inside {
		p.leave()
		defer p.enter()
	}
	wait := newBackoff(5*time.Millisecond, time.Second)
	failed := false
	for {
		err := op()
		if err == nil {
			if failed {
				p.log.Debug().Str("operation", what).Msg("store answers again")
			}
			return nil
		}
		if ctx.Err() != nil {
			return errStopped
		}
		if !failed {
			failed = true
			var away interface{ Temporary() bool }
			if errors.As(err, &away) && away.Temporary() {
				// One line for each partition would say it dozens of times; the lane says it once, about its leases.
				p.log.Debug().Err(err).Str("operation", what).Msg("store does not answer; trying again")
			} else { // passing over the entry would lose it, so everything behind it waits for the operator
				p.log.Error().Err(err).Str("operation", what).Msg("partition cannot go on until this is mended")
			}
		}
		p.lane.metrics.storeErrors.Inc()
		if !wait.wait(ctx) {
			return errStopped
		}
	}
}
