package crash_test

import (
	"encoding/json"
	"errors"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"consultd/handlers"
	"consultd/states"
)

// fold is what should have come of a log: every entry in order, decided by states.Decide, with nothing in between. It knows
// no partitions at work, no store, no relays and no crashes.
type fold struct {
	lane       states.Lane
	codec      *handlers.Codec
	partitions int

	read     uint64
	rules    *states.Rules
	early    []states.Entry // before the first rules
	fates    map[uint64]fate
	last     map[int]uint64 // partition to its last entry
	records  map[states.RecordID]states.Record
	applied  map[states.RecordID][]states.EventID
	pairs    map[[2]string]string
	rooms    map[string]map[string]float64
	queues   map[string]map[string]float64
	load     map[string]int
	said     []said
	fired    []firing
	armedAt  map[string]time.Time // when the entry that armed a timer was in the log
	fromApps map[string]int       // channel@timetoken to the number of entries
	answered map[string]uint64    // escalation to the entry that answered it
}

// fate is what became of one entry.
type fate string

const (
	fateDecided fate = "decided"
	fateRepeat  fate = "repeat" // the record had the event already
	fateStale   fate = "stale timer"
	fateDead    fate = "dead letter"
	fateIgnored fate = "ignored"
	fateRules   fate = "rules"
)

// said is a message that must have been said.
type said struct {
	states.Message
	sink      states.Sink
	partition int
	seq       uint64
}

// firing is a timer that did something. What came late over PubNub may have armed it when it was due already.
type firing struct {
	id             states.TimerID
	armed, due, at time.Time
}

func newFold(lane states.Lane, codec *handlers.Codec, partitions int) *fold {
	return &fold{
		lane: lane, codec: codec, partitions: partitions,
		fates: map[uint64]fate{}, last: map[int]uint64{}, records: map[states.RecordID]states.Record{},
		applied: map[states.RecordID][]states.EventID{}, pairs: map[[2]string]string{},
		rooms: map[string]map[string]float64{}, queues: map[string]map[string]float64{}, load: map[string]int{},
		answered: map[string]uint64{}, fromApps: map[string]int{}, armedAt: map[string]time.Time{},
	}
}

// add takes the next entry of the log.
func (f *fold) add(e states.Entry) {
	f.read = e.Seq
	if handlers.IsRules(e.Subject) {
		var rules states.Rules
		if err := json.Unmarshal(e.Data, &rules); err != nil {
			panic(err) // the daemon wrote it
		}
		f.rules = &rules
		f.fates[e.Seq] = fateRules
		early := f.early
		f.early = nil
		for _, before := range early { // what came before any rules is decided by the first ones
			f.decide(before)
		}
		return
	}
	if channel, in := handlers.InChannel(e.Subject); in && e.Header[handlers.HeaderSource] == string(states.SourcePubNub) {
		f.fromApps[channel+"@"+e.Header[handlers.HeaderTimetoken]]++
	}
	f.last[f.partition(f.codec.Key(e.Subject))] = e.Seq
	if f.rules == nil {
		f.early = append(f.early, e)
		return
	}
	f.decide(e)
}

func (f *fold) partition(key string) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	return int(h.Sum64() % uint64(f.partitions)) //nolint:gosec // a small count
}

func (f *fold) decide(e states.Entry) {
	ev, err := f.codec.Decode(e)
	if err != nil {
		f.refused(e, err)
		return
	}
	f.codec.ResolveRole(f.rules, &ev)
	record, facts := f.about(ev)
	before := record
	d, err := states.Decide(f.rules, record, ev, facts)
	switch {
	case err != nil:
		f.dead(e, "UNDECIDABLE", err.Error())
		return
	case d.Record.Version == before.Version:
		f.fates[e.Seq] = fateStale
		return
	case f.knows(before.ID, ev.ID):
		f.fates[e.Seq] = fateRepeat
		return
	}
	out, err := f.codec.Encode(f.rules, ev, &d)
	if err != nil {
		f.dead(e, "UNENCODABLE", err.Error())
		return
	}
	f.fates[e.Seq] = fateDecided
	f.applied[before.ID] = append(f.applied[before.ID], ev.ID)
	if ev.Kind == states.TimerFired {
		f.fired = append(f.fired, firing{ev.Timer, f.armedAt[ev.Timer.String()], dueOf(before, ev.Timer.Kind), e.At})
	}
	f.apply(e, &d, out)
}

// dueOf is when a record's running timer of a kind was due.
func dueOf(r states.Record, k states.TimerKind) time.Time { return armedTimers(r)[k].Due }

func armedTimers(r states.Record) states.Timers {
	switch {
	case r.Visit != nil:
		return r.Visit.Timers
	case r.Escalation != nil:
		return r.Escalation.Timers
	}
	return nil
}

// remembered is how many events a record recognises again, and prefix how much of their ids it keeps: commit.lua's figures.
const (
	remembered = 64
	prefix     = 16
)

func (f *fold) knows(id states.RecordID, event states.EventID) bool {
	list := f.applied[id]
	list = list[max(0, len(list)-remembered):]
	return slices.ContainsFunc(list, func(known states.EventID) bool { return known[:prefix] == event[:prefix] })
}

func (f *fold) refused(e states.Entry, err error) {
	var refused *handlers.Refused
	if !errors.As(err, &refused) {
		f.dead(e, "UNREADABLE", "the entry could not be read")
		return
	}
	if refused.Ignored() {
		f.fates[e.Seq] = fateIgnored
		return
	}
	f.dead(e, refused.Code, refused.Detail)
}

func (f *fold) dead(e states.Entry, code, detail string) {
	f.fates[e.Seq] = fateDead
	f.say(e, states.SinkNATS, f.codec.DeadLetter(e, code, detail))
}

func (f *fold) say(e states.Entry, sink states.Sink, messages ...states.Message) {
	for _, m := range messages {
		f.said = append(f.said, said{m, sink, f.partition(f.codec.Key(e.Subject)), e.Seq})
	}
}

// about is the record that an event concerns, and what else its decision depends on.
func (f *fold) about(ev states.Event) (states.Record, states.Facts) {
	desk, kind, id := ev.Provider, states.KindVisit, ev.Appointment
	if f.lane == states.LaneEmergency {
		desk, kind, id = ev.Department, states.KindEscalation, ev.Escalation
	}
	pair := [2]string{ev.Provider, ev.Patient}
	if id == "" && kind == states.KindVisit && ev.Patient != "" {
		id = f.pairs[pair]
	}
	rid := states.RecordID{Kind: kind, ID: id}
	if kind == states.KindEscalation {
		rid = states.EscalationRecord(ev.Department, id)
	}
	opens := ev.Kind == states.AppointmentScheduled || ev.Kind == states.PatientCheckedIn || ev.Kind == states.EmergencyEscalation
	switch _, exists := f.records[rid]; {
	case ev.Kind == states.TimerFired:
		rid = ev.Timer.Record
	case id == "", !exists && !opens:
		rid = states.RecordID{Kind: states.KindDesk, ID: desk}
	}
	record, exists := f.records[rid]
	if !exists {
		record = states.Record{ID: rid}
	}
	var facts states.Facts
	if ev.Kind == states.PatientCheckedIn {
		facts.PairHolder = f.pairs[pair]
	}
	return record, facts
}

func (f *fold) apply(e states.Entry, d *states.Decision, out map[states.Sink][]states.Message) {
	r := d.Record
	f.records[r.ID] = r
	if r.Escalation != nil && r.Escalation.Answered() && f.answered[r.ID.ID] == 0 {
		f.answered[r.ID.ID] = e.Seq
	}
	for _, p := range d.Places {
		change(f.rooms, p.Provider, p)
		change(f.queues, p.Department, p)
	}
	for _, t := range d.Timers {
		if !t.Due.IsZero() {
			f.armedAt[t.ID.String()] = e.At
		}
	}
	for _, l := range d.Load {
		if f.load[l.Provider] += l.Delta; f.load[l.Provider] == 0 {
			delete(f.load, l.Provider)
		}
	}
	if p := d.Pair; p != nil {
		key := [2]string{p.Provider, p.Patient}
		switch {
		case !p.Clear:
			f.pairs[key] = p.Appointment
		case p.Appointment == "" || f.pairs[key] == p.Appointment:
			delete(f.pairs, key)
		}
	}
	for _, sink := range slices.Sorted(maps.Keys(out)) {
		f.say(e, sink, out[sink]...)
	}
}

func change(places map[string]map[string]float64, where string, p states.PlaceChange) {
	if where == "" {
		return
	}
	if places[where] == nil {
		places[where] = map[string]float64{}
	}
	if p.Remove {
		delete(places[where], p.Appointment)
	} else {
		places[where][p.Appointment] = p.Score
	}
	if len(places[where]) == 0 {
		delete(places, where)
	}
}

// armed is every timer that runs.
func (f *fold) armed() map[string]time.Time {
	rows := map[string]time.Time{}
	for id, r := range f.records {
		key := id.ID
		switch {
		case r.Visit != nil:
			key = r.Visit.Provider
		case r.Escalation != nil:
			key = r.Escalation.Department
		}
		for kind, t := range armedTimers(r) {
			if !t.Due.IsZero() {
				rows[states.TimerID{Kind: kind, Record: id, Key: key, Generation: t.Generation}.String()] = t.Due
			}
		}
	}
	return rows
}

// openEscalations are those that nobody has answered.
func (f *fold) openEscalations() []states.Record {
	var open []states.Record
	for _, r := range f.records {
		if r.Escalation != nil && r.Escalation.State != states.EscalationClosed {
			open = append(open, r)
		}
	}
	slices.SortFunc(open, func(a, b states.Record) int { return strings.Compare(a.ID.ID, b.ID.ID) })
	return open
}

// count is how many entries met a fate.
func (f *fold) count(want fate) int {
	n := 0
	for _, got := range f.fates {
		if got == want {
			n++
		}
	}
	return n
}
