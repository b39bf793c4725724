package pubnub

import "sync/atomic"

// Stats counts what happened since start. One may be shared by an Ingest and a Publisher; all fields may be read at any time.
type Stats struct {
	Owner        atomic.Bool  // this replica polls
	LastPoll     atomic.Int64 // when a poll was last completed, unix milliseconds; 0 before the first
	FailingSince atomic.Int64 // when polls began to fail, unix milliseconds; 0 while they do not
	LastFailure  atomic.Int64 // when a poll failed last, unix milliseconds
	InFlight     atomic.Int64 // subscribe requests being waited for
	Polls        atomic.Int64 // completed polls
	Retries      atomic.Int64 // subscribe attempts that failed and were repeated
	Denied       atomic.Int64 // of these, refused for lack of rights or as wrong
	Takeovers    atomic.Int64 // times this replica became the one that polls
	Rebuilds     atomic.Int64 // times the SDK client was replaced because it had stopped asking

	Elements        atomic.Int64 // messages put into the log
	Urgent          atomic.Int64 // emergencies recognised inside consultations
	UrgentFailed    atomic.Int64 // of these, those that only took the ordinary way
	Repeats         atomic.Int64 // messages met again and skipped
	Own             atomic.Int64 // messages of the daemon itself, skipped
	Ignored         atomic.Int64 // signals, presence, files, actions, app context, the control channel
	Quarantined     atomic.Int64 // elements that could not be read
	DecryptFailures atomic.Int64 // consultation messages that no key opens
	AppendRetries   atomic.Int64 // failed attempts to reach the log
	CatchUps        atomic.Int64 // completed readings of history
	CatchUpFailures atomic.Int64 // readings of history that failed and are repeated
	Missed          atomic.Int64 // messages that only history still had

	Published     atomic.Int64 // messages that PubNub confirmed
	PublishFailed atomic.Int64 // attempts that failed
	PublishNever  atomic.Int64 // messages that PubNub will never take
}
