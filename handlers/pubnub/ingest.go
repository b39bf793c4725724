package pubnub

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	sdk "github.com/pubnub/go/v7"
	"github.com/rs/zerolog"

	"consultd/handlers"
	"consultd/states"
)

// ControlChannel is always subscribed to, since the SDK goes deaf when it is left with no channel. What is said on it is
// ignored.
const ControlChannel = "consultd.control"

// Headers of the log's entries, and what the ingester puts into the first.
const (
	headerSource    = "Consult-Source"
	headerActor     = "Consult-Actor"
	headerTimetoken = "Consult-Timetoken"
	source          = "pubnub"
)

const (
	// rememberLogged is how many logged messages are remembered, so that overlaps of live and history cost nothing. What is
	// forgotten is still recognised by its id in the log.
	rememberLogged = 20_000
	// rememberChannels is how many channels are remembered as having been spoken on.
	rememberChannels = 10_000
	// urgentAttempts is how often the short way of an emergency is tried before it only takes the ordinary one.
	urgentAttempts = 5
)

// youth is how long an SDK client takes to start at most.
const youth = 100 * time.Millisecond

// actionEmergency is the message that raises an emergency inside a consultation.
const actionEmergency = "EMERGENCY_REQUESTED"

// IngestOptions are what NewIngest needs. The functions are called from one goroutine at a time; they are repeated, with
// the same arguments, until they return nil, so they must take repeats (the message id is for that).
type IngestOptions struct {
	Account  Account
	Channels []string // names and wildcards to subscribe to
	Groups   []string // channel groups to subscribe to
	Owner    string   // name of this replica, for the operator
	Cell     Cell
	Ring     *KeyRing // to recognise emergencies; nil when nothing is encrypted

	// Append puts one message into a lane's log. What never can be appended must be reported as done: nothing else is
	// ingested before.
	Append func(ctx context.Context, lane states.Lane, subject, msgID string, header map[string]string, data []byte) error
	// Urgent puts an emergency that was asked for inside a consultation (plain is the message, decrypted) into the emergency
	// lane. The message takes the ordinary way as well, also when Urgent keeps failing. With a key ring, one that came in
	// clear takes only the ordinary way. May be nil.
	Urgent func(ctx context.Context, channel, publisher, timetoken string, plain []byte) error
	// Quarantine keeps a reference to an element that cannot be read.
	Quarantine func(ctx context.Context, u Unreadable) error
	// Known gives the channels on which something may have been said, for reading history: wildcards cannot be read, so
	// this is the directory's waiting rooms and departments, and the consultations under way. May be nil.
	Known func(ctx context.Context) ([]string, error)
	// Alert is told what an operator has to act on, again at each attempt. May be nil.
	Alert func(err error)

	Pace  Pace
	Stats *Stats // may be nil
	Log   zerolog.Logger
}

// Ingest brings what is published into the log: every message once (repeats have the same id), those of a channel in the
// order of their timetokens. Of all replicas one polls; the others wait to take over.
type Ingest struct {
	opts    IngestOptions
	network http.RoundTripper
	logged  *recent
	heard   *recent // channels
}

// NewIngest checks the options. Nothing happens before Run.
func NewIngest(opts IngestOptions) (*Ingest, error) {
	if err := opts.Account.Check(); err != nil {
		return nil, err
	}
	for _, name := range slices.Concat(opts.Channels, opts.Groups) {
		if !printable(name, 92) || strings.Contains(name, "-pnpres") || strings.ContainsAny(name, ",:/\\") {
			return nil, errors.New("pubnub ingest: a channel or group to subscribe to has an impossible name")
		}
	}
	switch {
	case opts.Cell == nil || opts.Append == nil || opts.Quarantine == nil:
		return nil, errors.New("pubnub ingest: cell, append and quarantine are needed")
	case opts.Stats == nil:
		opts.Stats = new(Stats)
	}
	if opts.Alert == nil {
		opts.Alert = func(error) {}
	}
	opts.Pace = opts.Pace.withDefaults()
	return &Ingest{opts: opts, network: opts.Account.network(), logged: newRecent(rememberLogged), heard: newRecent(rememberChannels)}, nil
}

// Run polls whenever this replica is the one to do so, until ctx ends. Then it gives the lease up and returns nil.
func (in *Ingest) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		l := &lease{cell: in.opts.Cell, owner: in.opts.Owner + " " + rand.Text(), pace: in.opts.Pace, alert: in.opts.Alert}
		if l.acquire(ctx) != nil {
			break
		}
		in.opts.Stats.Owner.Store(true)
		in.opts.Stats.Takeovers.Add(1)
		in.opts.Log.Info().Bool("from_now", l.place().Cursor == 0).Msg("polling pubnub")
		in.own(ctx, l)
		in.opts.Stats.Owner.Store(false)
	}
	return nil
}

// own polls until the lease is lost or ctx ends.
func (in *Ingest) own(ctx context.Context, l *lease) {
	owned, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var beating sync.WaitGroup
	beating.Go(func() { cancel(l.beat(owned)) })
	for owned.Err() == nil {
		in.session(owned, cancel, l)
	}
	beating.Wait()
	if errors.Is(context.Cause(owned), errLost) {
		in.opts.Log.Warn().Msg("another replica has taken over polling pubnub")
		return
	}
	last, done := context.WithTimeout(context.WithoutCancel(ctx), in.opts.Pace.Operation)
	defer done()
	l.release(last)
}

// session runs one SDK client, until ctx ends or the client stops asking.
func (in *Ingest) session(ctx context.Context, lost context.CancelCauseFunc, l *lease) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{Ingest: in, lease: l, lost: lost, history: history{in.opts.Account, in.network}}
	at := l.place()
	if s.gap.from = at.Gap; s.gap.from == 0 {
		s.gap.from = at.Cursor // whatever happened while nobody polled
	}
	s.gap.due = time.Now()
	t := &transport{
		ctx: ctx, over: make(chan struct{}), account: in.opts.Account, network: in.network, receiver: s, pace: in.opts.Pace,
		stats: in.opts.Stats, alert: in.opts.Alert, started: time.Now(),
	}

	var client *sdk.PubNub
	guard(func() {
		client = in.opts.Account.client(in.network, false)
		client.SetSubscribeClient(&http.Client{Transport: t})
		// One call, and never another: several make several loops.
		client.Subscribe().Channels(append([]string{ControlChannel}, in.opts.Channels...)).ChannelGroups(in.opts.Groups).Timetoken(at.Cursor).Execute()
	})
	for sleep(ctx, min(in.opts.Pace.Idle/4, time.Second)) == nil {
		if t.idle() > in.opts.Pace.Idle {
			in.opts.Stats.Rebuilds.Add(1)
			in.opts.Log.Error().Msg("pubnub client has stopped asking; replacing it")
			break
		}
	}
	cancel()    // ends the request being waited for
	s.mu.Lock() // whatever that brought is dealt with, and nothing else is begun
	defer s.mu.Unlock()
	// The SDK is not to be stopped while it is still starting: it would do both at the same time.
	_ = sleep(context.WithoutCancel(ctx), youth-time.Since(t.started))
	guard(client.UnsubscribeAll)
	close(t.over)
	guard(client.Destroy)
}

// gap is a stretch of time of which messages may be missing.
type gap struct {
	from  int64     // timetoken it begins after; 0: there is none
	due   time.Time // when history is to be read
	again bool      // it has been read once; history lags, so it is read twice
	slow  uint      // how often reading was not done in time
}

// session is the receiver of one SDK client's answers.
type session struct {
	*Ingest
	lease   *lease
	lost    context.CancelCauseFunc // ends everything that the lease allows
	history history

	mu    sync.Mutex // held while a poll is under way: never two
	gap   gap
	hasty *waits // while answers come without messages and too soon
}

// began stores the first cursor there ever is. A later handshake says only where "now" is, which is no reason to skip what
// was said before.
func (s *session) began(ctx context.Context, now int64) error {
	if s.lease.place().Cursor != 0 {
		return nil
	}
	return s.store(ctx, func(p *place) {
		if p.Cursor == 0 {
			p.Cursor = now
		}
	})
}

// poll asks for what is new. While it waits it reads from history what may have been missed: asked first and read second,
// so that there is no hole between the two, and both are put into the log together, in order.
func (s *session) poll(ctx context.Context, fetch func(context.Context, int64) (Batch, error)) (Batch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return Batch{}, ctx.Err()
	}
	ctx, cancel := context.WithCancel(ctx)
	waiting := &answer{ready: make(chan struct{})}
	defer func() { // the request ends with us
		cancel()
		<-waiting.ready
	}()
	go func() {
		waiting.batch, waiting.err = fetch(ctx, s.lease.place().Cursor)
		close(waiting.ready)
	}()
	for {
		if wait := s.gap.wait(); wait > 0 { // otherwise history comes first, even if the answer is there already
			timer := time.NewTimer(wait)
			select {
			case <-waiting.ready:
				timer.Stop()
				return waiting.batch, s.take(ctx, waiting)
			case <-timer.C:
			}
		}
		missed, err := s.catchUp(ctx, waiting)
		if err != nil {
			return Batch{}, err
		}
		select {
		case <-waiting.ready:
			return waiting.batch, s.take(ctx, waiting, missed...)
		default:
		}
		if err := s.record(ctx, missed); err != nil {
			return Batch{}, err
		}
		if err := s.caughtUp(ctx, 0); err != nil {
			return Batch{}, err
		}
	}
}

// answer is what a poll brings.
type answer struct {
	ready chan struct{} // closed when the rest is set
	batch Batch
	err   error
	early bool // its emergencies are in the log
}

// wait is how long until history is to be read; very long when there is no gap.
func (g gap) wait() time.Duration {
	if g.from == 0 {
		return math.MaxInt64
	}
	return time.Until(g.due)
}

// take puts an answer into the log, with what was missed before it, and then moves the cursor.
func (s *session) take(ctx context.Context, a *answer, missed ...Element) error {
	if a.err != nil {
		return a.err
	}
	b := a.batch
	if why := s.doubt(&b); why == "" {
		if err := s.recordUrgent(ctx, a); err != nil {
			return err
		}
	} else {
		s.opts.Log.Warn().Str("why", why).Msg("reading pubnub history")
		s.open(min(b.From, b.Cursor))
		more, err := s.catchUp(ctx, a)
		if err != nil {
			return err
		}
		missed = append(missed, more...)
	}
	for _, bad := range b.Bad {
		if err := s.quarantine(ctx, bad); err != nil {
			return err
		}
	}
	elements := append(missed, b.Elements...)
	sortByTime(elements)
	if err := s.record(ctx, elements); err != nil {
		return err
	}
	for _, e := range b.Elements {
		if _, err := handlers.ParseChannel(e.Channel); err == nil {
			s.heard.add(e.Channel)
		}
	}
	if err := s.caughtUp(ctx, b.Cursor); err != nil || !b.hasty(s.opts.Pace) {
		s.hasty = nil
		return err
	}
	if s.hasty == nil {
		s.hasty = s.opts.Pace.retry()
	}
	return s.hasty.next(ctx, 0) // a service that answers nothing at once would be asked without end
}

// doubt says why an answer may not be all there was.
func (s *session) doubt(b *Batch) string {
	switch {
	case b.full():
		return "full answer"
	case b.Cursor < b.From:
		return "cursor went back"
	case b.Down > s.opts.Pace.Downtime:
		return "long without a poll"
	case b.hasty(s.opts.Pace):
		return "empty answer too soon"
	}
	return ""
}

// open begins a gap, or widens the one there is.
func (s *session) open(from int64) {
	if s.gap.from == 0 || from < s.gap.from {
		s.gap.from = from
	}
	s.gap.due, s.gap.again = time.Now(), false
}

// catchUp reads from history what may be missing. When that fails or takes too long, live messages go on and it is repeated
// later; only the end of ctx is an error. Emergencies that have come wait only for the emergencies before them, and for
// those not long.
func (s *session) catchUp(ctx context.Context, waiting *answer) ([]Element, error) {
	reading, cancel := context.WithTimeout(ctx, s.opts.Pace.Patience<<min(s.gap.slow, 5))
	defer cancel()
	type result struct {
		elements []Element
		err      error
	}
	urgently, all := make(chan result, 1), make(chan result, 1)
	from := s.gap.from
	go func() {
		channels, err := s.channels(reading)
		first := slices.IndexFunc(channels, func(name string) bool { return !urgent(name) })
		if first < 0 {
			first = len(channels)
		}
		var emergencies, others []Element
		if err == nil {
			emergencies, err = s.history.since(reading, channels[:first], from)
		}
		urgently <- result{emergencies, err}
		if err == nil {
			others, err = s.history.since(reading, channels[first:], from)
		}
		all <- result{others, err}
	}()
	grace := time.NewTimer(s.opts.Pace.Grace)
	defer grace.Stop()
	var ready chan struct{} // not looked at before the time has come
	for {
		select {
		case <-grace.C:
			ready = waiting.ready
		case r := <-urgently:
			ready = waiting.ready
			if err := s.record(ctx, r.elements); err != nil {
				return nil, err
			}
		case <-ready:
			ready = nil
			if err := s.recordUrgent(ctx, waiting); err != nil {
				return nil, err
			}
		case r := <-all:
			missed := r.elements
			switch {
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case r.err != nil:
				s.opts.Stats.CatchUpFailures.Add(1)
				s.opts.Alert(r.err)
				s.gap.due = time.Now().Add(s.opts.Pace.Again)
				if reading.Err() != nil {
					s.gap.slow++ // it may take longer next time
				}
			case s.gap.again:
				s.opts.Stats.CatchUps.Add(1)
				s.gap = gap{}
			default:
				s.opts.Stats.CatchUps.Add(1)
				s.gap.again, s.gap.due = true, time.Now().Add(s.opts.Pace.Settle)
			}
			missed = slices.DeleteFunc(missed, func(e Element) bool { return s.logged.has(messageID(e)) })
			s.opts.Stats.Missed.Add(int64(len(missed)))
			return missed, nil
		}
	}
}

// caughtUp stores how far everything is in the log; cursor 0 leaves that as it is.
func (s *session) caughtUp(ctx context.Context, cursor int64) error {
	now := s.lease.place()
	if (cursor == 0 || cursor == now.Cursor) && now.Gap == s.gap.from {
		return nil
	}
	return s.store(ctx, func(p *place) {
		p.Gap = s.gap.from
		if cursor != 0 {
			p.Cursor = cursor
		}
	})
}

func (s *session) store(ctx context.Context, change func(*place)) error {
	err := s.lease.update(ctx, change)
	if errors.Is(err, errLost) {
		s.lost(errLost)
	}
	return err
}

// channels gives what history is read of, emergencies first.
func (s *session) channels(ctx context.Context) ([]string, error) {
	var names []string
	for _, name := range s.opts.Channels {
		if !strings.HasSuffix(name, "*") {
			names = append(names, name)
		}
	}
	names = append(names, s.heard.keys()...)
	for _, group := range s.opts.Groups {
		members, err := s.history.members(ctx, group)
		if err != nil {
			return nil, err
		}
		names = append(names, members...)
	}
	if s.opts.Known != nil {
		known, err := s.opts.Known(ctx)
		if err != nil {
			return nil, err
		}
		names = append(names, known...)
	}
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == ControlChannel || !printable(name, 92) })
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case urgent(a) == urgent(b):
			return 0
		case urgent(a):
			return -1
		default:
			return 1
		}
	})
	return names, nil
}

// recordUrgent puts the emergencies of an answer into the log before anything else is done with it.
func (s *session) recordUrgent(ctx context.Context, a *answer) error {
	if a.err != nil || a.early {
		return nil
	}
	for _, e := range a.batch.Elements {
		if !s.wanted(e) {
			continue
		}
		if urgent(e.Channel) {
			if err := s.append(ctx, e); err != nil {
				return err
			}
			continue
		}
		if err := s.raise(ctx, e); err != nil {
			return err
		}
	}
	a.early = true
	return nil
}

// record puts elements, which are in timetoken order, into the log: emergencies first, they have a log of their own.
func (s *session) record(ctx context.Context, elements []Element) error {
	if err := s.recordUrgent(ctx, &answer{batch: Batch{Elements: elements}}); err != nil {
		return err
	}
	for _, e := range elements {
		switch {
		case e.Kind != 0 || e.Channel == ControlChannel || strings.HasSuffix(e.Channel, "-pnpres"):
			s.opts.Stats.Ignored.Add(1)
		case e.Publisher == s.opts.Account.User:
			s.opts.Stats.Own.Add(1)
		case s.logged.has(messageID(e)):
			if !urgent(e.Channel) {
				s.opts.Stats.Repeats.Add(1)
			}
		default:
			if err := s.append(ctx, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// wanted says whether an element is an input that is not in the log yet.
func (s *session) wanted(e Element) bool {
	return e.Kind == 0 && e.Channel != ControlChannel && e.Publisher != s.opts.Account.User && !s.logged.has(messageID(e))
}

// append puts one element into the log, however long that takes.
func (s *session) append(ctx context.Context, e Element) error {
	if bad := e.check(); bad.Reason != "" {
		return s.quarantine(ctx, bad)
	}
	id, subject := messageID(e), handlers.InSubject(e.Channel)
	header := map[string]string{headerSource: source, headerActor: e.Publisher, headerTimetoken: strconv.FormatInt(e.Timetoken, 10)}
	err := s.insist(ctx, func(ctx context.Context) error {
		return s.opts.Append(ctx, handlers.LaneOf(subject), subject, id, header, e.Payload)
	})
	if err != nil {
		return err
	}
	s.logged.add(id)
	s.opts.Stats.Elements.Add(1)
	return nil
}

// raise recognises an emergency inside a consultation and takes the short way with it.
func (s *session) raise(ctx context.Context, e Element) error {
	channel, err := handlers.ParseChannel(e.Channel)
	if s.opts.Urgent == nil || err != nil || channel.Class != handlers.ClassConsultation {
		return nil
	}
	plain, encrypted, err := s.opts.Ring.Decrypt(e.Channel, e.Payload)
	if err != nil {
		s.opts.Stats.DecryptFailures.Add(1)
		return nil
	}
	var message struct {
		Action string `json:"action"`
	}
	raised := "urgent " + messageID(e)
	if !encrypted && s.opts.Ring != nil || json.Unmarshal(plain, &message) != nil || message.Action != actionEmergency || s.logged.has(raised) {
		return nil
	}
	wait := s.opts.Pace.retry()
	for range urgentAttempts {
		err := s.once(ctx, func(ctx context.Context) error {
			return s.opts.Urgent(ctx, e.Channel, e.Publisher, strconv.FormatInt(e.Timetoken, 10), plain)
		})
		if err == nil {
			s.logged.add(raised)
			s.opts.Stats.Urgent.Add(1)
			return nil
		}
		if err := wait.next(ctx, 0); err != nil {
			return err
		}
	}
	s.opts.Stats.UrgentFailed.Add(1)
	return nil
}

// quarantine keeps a reference to what cannot be read, however long that takes.
func (s *session) quarantine(ctx context.Context, bad Unreadable) error {
	id := "bad " + bad.Channel + " " + strconv.FormatInt(bad.Timetoken, 10)
	if bad.Timetoken != 0 && s.logged.has(id) {
		return nil
	}
	if err := s.insist(ctx, func(ctx context.Context) error { return s.opts.Quarantine(ctx, bad) }); err != nil {
		return err
	}
	s.logged.add(id)
	s.opts.Stats.Quarantined.Add(1)
	return nil
}

// insist repeats f until it succeeds or ctx ends.
func (s *session) insist(ctx context.Context, f func(context.Context) error) error {
	wait := s.opts.Pace.retry()
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if s.once(ctx, f) == nil {
			return nil
		}
		s.opts.Stats.AppendRetries.Add(1)
		if err := wait.next(ctx, 0); err != nil {
			return err
		}
	}
}

func (s *session) once(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Pace.Operation)
	defer cancel()
	return f(ctx)
}

// messageID is the same for the same message, however it comes. The channel's name is not to be seen in it.
func messageID(e Element) string {
	sum := sha256.Sum256([]byte(e.Channel + "\x00" + strconv.FormatInt(e.Timetoken, 10)))
	return "pn." + hex.EncodeToString(sum[:16])
}
