package orchestrator

import (
	"context"
	"time"

	"consultd/states"
)

// Log is one lane's log of inputs.
type Log interface {
	// Read delivers every entry after the given position, in order, until ctx ends or deliver returns an error.
	Read(ctx context.Context, after uint64, deliver func(states.Entry) error) error
	// Append stores an entry and returns its position; a repeat of msgID within the log's window is stored once.
	Append(ctx context.Context, subject, msgID string, header map[string]string, data []byte) (uint64, error)
	// Next returns the first entry of a subject at or after a position.
	Next(ctx context.Context, subject string, from uint64) (states.Entry, bool, error)
	// Identity tells this log from one that was created anew, and where it ends.
	Identity(ctx context.Context) (id string, last uint64, err error)
	// Last returns the last entry of a subject.
	Last(ctx context.Context, subject string) (states.Entry, bool, error)
}

// Codec translates between the wire and the domain.
type Codec interface {
	// Key returns what places a subject in a partition.
	Key(subject string) string
	// Decode reads an entry strictly. An error that is a Refusal means never; there is no other kind.
	Decode(e states.Entry) (states.Event, error)
	// ResolveRole gives an authenticated actor the role that the directory knows, where the message's channel gives none.
	ResolveRole(rules *states.Rules, ev *states.Event)
	// Encode turns a decision's effects and audit entries into messages per sink.
	Encode(rules *states.Rules, ev states.Event, d *states.Decision) (map[states.Sink][]states.Message, error)
	// DeadLetter refers to an entry that can never be decided, with its reason and without its content.
	DeadLetter(e states.Entry, code, detail string) states.Message
	// RulesSubject and TimerSubject name a lane's internal entries; TimerData is the content of a timer's entry.
	RulesSubject(lane states.Lane) string
	TimerSubject(lane states.Lane, key string) string
	TimerData(id states.TimerID) []byte
}

// Refusal is an error that means never: the entry goes to the dead letters, or is passed over when Ignored.
type Refusal interface {
	error
	RefusalCode() string
	RefusalDetail() string
	Ignored() bool
}

// Records is where decisions are committed.
type Records interface {
	Load(ctx context.Context, ids ...states.RecordID) ([]states.Record, error)
	Pair(ctx context.Context, provider, patient string) (string, error)
	Commit(ctx context.Context, c *states.Commit) (states.Stored, error)
}

// Outbox holds what committed decisions want said, per partition and sink.
type Outbox interface {
	Pending(ctx context.Context, p states.Partition, sink states.Sink, after int64, limit int) ([]states.Pending, error)
	// Delivered removes an entry, some time soon.
	Delivered(p states.Partition, sink states.Sink, entry int64)
}

// Leases say which replica owns which partition.
type Leases interface {
	Members(ctx context.Context, self string, ttl time.Duration) ([]string, error)
	Leave(ctx context.Context, self string) error
	Acquire(ctx context.Context, owner string, ttl time.Duration, ps []states.Partition) (map[states.Partition]states.Lease, error)
	Renew(ctx context.Context, owner string, ttl time.Duration, ps []states.Partition) ([]states.Partition, error)
	// Bind says which log the stored positions were counted in: the given one, if none was said before.
	Bind(ctx context.Context, lane states.Lane, log string) (bound string, err error)
	Release(ctx context.Context, owner string, ps []states.Partition) error
}

// Timers are the armed timers of all records, by due time on the store's clock.
type Timers interface {
	Due(ctx context.Context, ps []states.Partition, limit int) (states.DueTimers, error)
}

// Store is everything a lane keeps.
type Store interface {
	Records
	Outbox
	Leases
	Timers
}

// Publisher hands messages to a sink and returns when all are accepted. An error with Permanent() true will not go away.
type Publisher interface {
	Publish(ctx context.Context, ms []states.Message) error
}

// Marks remember, outside the store, how far each partition's messages have been delivered: the log position below which
// a sink has everything. When the store has forgotten and the log is replayed, what a sink has had is not said again.
type Marks interface {
	LoadMarks(ctx context.Context, p states.Partition) (map[states.Sink]uint64, error)
	SaveMarks(ctx context.Context, p states.Partition, marks map[states.Sink]uint64) error
}
