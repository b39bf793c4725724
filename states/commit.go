package states

import "time"

// Lane separates emergencies from everything else, from the first byte to the last: own log, own partitions, own outboxes.
type Lane string

// The lanes.
const (
	LaneNormal    Lane = "n"
	LaneEmergency Lane = "e"
)

// Partition is the unit of ownership: a slice of a lane's log with its timers and outboxes, decided strictly in log order.
type Partition struct {
	Lane   Lane
	Number int
}

// Sink is where an outbox leads. Each has its own backoff and memory, so that one being away delays no other.
type Sink string

// The sinks.
const (
	SinkNATS   Sink = "nats"   // consult.out.*, and events that go back into the log
	SinkPubNub Sink = "pubnub" // the apps
	SinkAudit  Sink = "audit"  // the stream CONSULT_AUDIT
	SinkAsk    Sink = "ask"    // questions to the on-call source
)

// Sinks lists every sink in a fixed order.
func Sinks() []Sink { return []Sink{SinkNATS, SinkPubNub, SinkAudit, SinkAsk} }

// Message is one thing to be said to a sink: already encoded, in clear, small enough for the sink.
type Message struct {
	ID      string `json:"i"` // deterministic: Nats-Msg-Id, and the message's own id
	Channel string `json:"c"` // PubNub channel name; the NATS subject follows from it
	Payload []byte `json:"p"`
	// Escalation is the id of an escalation's record, set on pages: whoever sends one first looks whether that escalation has
	// been answered meanwhile.
	Escalation string `json:"e,omitempty"`
}

// Claim is proof of ownership of a partition, sent along with every write.
type Claim struct {
	Partition Partition
	Epoch     int64 // of the lease; an older one is fenced off
	Floor     int64 // commits that the owner knows to be stored; a store with fewer has lost writes
}

// Commit is one decision on its way into the store, or a mere advance of the position when Record is zero.
type Commit struct {
	Claim
	Seq      uint64  // log position that is done once this is stored
	RulesSeq uint64  // log position of the rules in force; 0 keeps what is stored
	Event    EventID // "" for entries that change no record
	Decision *Decision
	Fired    TimerID       // the timer whose row goes with this commit; zero when the event is no timer
	Keep     time.Duration // how long a final record is kept
	Outbox   map[Sink][]Message
}

// Outcome is what became of a commit.
type Outcome string

// The outcomes of a commit.
const (
	Committed Outcome = "committed"
	Duplicate Outcome = "duplicate" // the record has seen this event id: nothing changed but the position
	Replayed  Outcome = "replayed"  // the position is past this entry: nothing changed
	Conflict  Outcome = "conflict"  // the record has another version: load it and decide again
	Fenced    Outcome = "fenced"    // somebody else owns the partition, or the store was emptied
	Rewound   Outcome = "rewound"   // the store has lost writes that it had confirmed: replay from its position
)

// Stored is the answer to a commit. Entry is the position of the outbox entries it made, the partition's commit count.
type Stored struct {
	Outcome Outcome
	Entry   int64
}

// Pending is one outbox entry that is still to be delivered.
type Pending struct {
	Partition Partition
	Sink      Sink
	Entry     int64
	Seq       uint64 // log position of the decision
	Messages  []Message
}

// Entry is one message of a lane's log, as stored.
type Entry struct {
	Lane    Lane
	Seq     uint64
	At      time.Time         // when the log stored it
	Subject string            // NATS subject
	Header  map[string]string // Nats-Msg-Id and the Consult-* headers
	Data    []byte
}

// Lease is what a replica gets to know about a partition when it becomes its owner.
type Lease struct {
	Epoch    int64
	Seq      uint64 // log position of the last committed entry
	Commits  int64
	RulesSeq uint64 // log position of the rules in force, 0: none yet
}

// DueTimers is one look at the armed timers, in the store's own time.
type DueTimers struct {
	Due  []DueTimer
	Next time.Time // due time of the first timer that is not yet due; zero: none armed
	Now  time.Time
}

// DueTimer is an armed timer whose time has come.
type DueTimer struct {
	ID  TimerID
	Due time.Time
}
