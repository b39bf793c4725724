package store

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"

	"consultd/states"
)

// keys builds every key. All keys of an organisation carry the same hash tag, so that one script may touch any of them
// on a cluster too.
type keys struct{ tag string }

func newKeys(organization string) keys { return keys{"{" + organization + "}:"} }

// record is a hash: v version, r sealed record, d recent event ids.
func (k keys) record(id states.RecordID) string { return k.tag + id.String() }

// partition is a hash: owner, until (ms), epoch, seq, commits, rules (a log position).
func (k keys) partition(p states.Partition) string { return k.tag + "partition:" + partitionName(p) }

// log is a string: the identity of the log that a lane's positions were counted in.
func (k keys) log(lane states.Lane) string { return k.tag + "log:" + string(lane) }

// timers is a sorted set of timer ids by due time in milliseconds.
func (k keys) timers(p states.Partition) string { return k.tag + "timers:" + partitionName(p) }

// outbox is a stream: entry <commits>-0 holds p, the sealed messages, and s, the log position.
func (k keys) outbox(p states.Partition, sink states.Sink) string {
	return k.tag + "outbox:" + partitionName(p) + ":" + string(sink)
}

// room is a sorted set of the appointments in a provider's waiting room, by score.
func (k keys) room(provider string) string { return k.tag + "room:" + provider }

// queue is a sorted set of the appointments in a department's queue, by score.
func (k keys) queue(department string) string { return k.tag + "queue:" + department }

// load is a hash: provider to the number of visits he is in.
func (k keys) load() string { return k.tag + "load" }

// pairs is a hash: pairField to the appointment that the pair's channel means.
func (k keys) pairs() string { return k.tag + "pairs" }

// members is a sorted set of living replicas by the end of their lives in milliseconds.
func (k keys) members() string { return k.tag + "members" }

func partitionName(p states.Partition) string { return string(p.Lane) + ":" + strconv.Itoa(p.Number) }

const pairBytes = 16

// pairField names a provider and a patient without showing the patient: 128 bits of SHA-256, in hex.
func pairField(provider, patient string) string {
	sum := sha256.Sum256([]byte(provider + "\x00" + patient))
	return hex.EncodeToString(sum[:pairBytes])
}
