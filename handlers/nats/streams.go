package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"consultd/handlers"
	"consultd/states"
)

// Names of the streams and of the key-value bucket.
const (
	LogStream       = "CONSULT_LOG"
	EmergencyStream = "CONSULT_EMERGENCY"
	OutStream       = "CONSULT_OUT"
	PagesStream     = "CONSULT_PAGES"
	DeadStream      = "CONSULT_DEAD"
	AuditStream     = "CONSULT_AUDIT"
	StateBucket     = "CONSULT_STATE"
)

const day = 24 * time.Hour

// StreamOptions is what an operator may choose about the streams.
type StreamOptions struct {
	Replicas     int           // 1 to 5; 3 on a cluster, so that "accepted" survives the loss of a server
	Duplicates   time.Duration // how long a message id is remembered; must exceed the longest repetition
	LogAge       time.Duration // must exceed the age of any backup of the store; 0 keeps everything
	EmergencyAge time.Duration // the same for the emergency log
	OutAge       time.Duration
	PagesAge     time.Duration
	DeadAge      time.Duration
	AuditAge     time.Duration // 0, the default, keeps everything
}

// DefaultStreamOptions are for one server: no replication.
func DefaultStreamOptions() StreamOptions {
	return StreamOptions{
		Replicas:     1,
		Duplicates:   15 * time.Minute,
		LogAge:       30 * day,
		EmergencyAge: 30 * day,
		OutAge:       7 * day,
		PagesAge:     30 * day,
		DeadAge:      90 * day,
	}
}

// StreamOf is the stream that holds a lane's log.
func StreamOf(lane states.Lane) string {
	if lane == states.LaneEmergency {
		return EmergencyStream
	}
	return LogStream
}

// Streams are the wanted streams. All of them keep by age, on disk; nothing is consumed away.
func Streams(o StreamOptions) []jetstream.StreamConfig {
	stream := func(name, what string, age time.Duration, subjects ...string) jetstream.StreamConfig {
		window := o.Duplicates
		if age > 0 {
			window = min(window, age) // the server's rule
		}
		return jetstream.StreamConfig{
			Name:        name,
			Description: what,
			Subjects:    subjects,
			Retention:   jetstream.LimitsPolicy,
			Storage:     jetstream.FileStorage,
			Discard:     jetstream.DiscardOld,
			MaxAge:      age,
			Duplicates:  window,
			Replicas:    o.Replicas,
		}
	}
	audit := stream(AuditStream, "audit trail with signed checkpoints", o.AuditAge, handlers.AuditSubjects()...)
	audit.Discard = jetstream.DiscardNew // should a limit ever be set: refuse what is new, never forget what is old
	audit.DenyDelete = true
	audit.DenyPurge = true
	return []jetstream.StreamConfig{
		stream(LogStream, "everything that was said to consultd, except emergencies", o.LogAge, handlers.LogSubjects()...),
		stream(EmergencyStream, "emergencies said to consultd", o.EmergencyAge, handlers.EmergencySubjects()...),
		stream(OutStream, "what consultd says", o.OutAge, handlers.OutSubjects()...),
		stream(PagesStream, "pages and emergencies that consultd says", o.PagesAge, handlers.PageSubjects()...),
		stream(DeadStream, "references to messages that were refused", o.DeadAge, handlers.DeadSubjects()...),
		audit,
	}
}

// Reconcile makes the server's streams and bucket what they are wanted to be: it creates what is missing and changes
// age, duplicate window, replicas and further subjects. Differences that cannot be changed without losing data are
// refused, all of them in one *IncompatibleError, before anything is touched. It tries until ctx ends.
func Reconcile(ctx context.Context, js jetstream.JetStream, o StreamOptions) error {
	if o.Replicas < 1 || o.Replicas > 5 {
		return fmt.Errorf("nats streams: %d replicas: choose 1 to 5", o.Replicas)
	}
	for {
		err := reconcile(ctx, js, o)
		if err == nil || !transient(err) {
			return err
		}
		if !sleep(ctx, 4*retryPause) {
			return fmt.Errorf("nats streams: %w (%w)", err, ctx.Err())
		}
	}
}

func reconcile(ctx context.Context, js jetstream.JetStream, o StreamOptions) error {
	existing := map[string]jetstream.StreamConfig{}
	list := js.ListStreams(ctx)
	for info := range list.Info() {
		existing[info.Config.Name] = info.Config
	}
	if err := list.Err(); err != nil {
		return fmt.Errorf("list streams: %w", err)
	}

	wanted := Streams(o)
	refused := &IncompatibleError{}
	for _, w := range wanted {
		have, ok := existing[w.Name]
		if ok {
			refused.Problems = append(refused.Problems, compare(have, w)...)
		}
		for name, other := range existing {
			if name != w.Name {
				refused.Problems = append(refused.Problems, collisions(other, w)...)
			}
		}
	}
	if len(refused.Problems) > 0 {
		slices.SortFunc(refused.Problems, func(a, b Incompatible) int {
			return strings.Compare(a.Stream+"\x00"+a.Field, b.Stream+"\x00"+b.Field)
		})
		return refused
	}

	for _, w := range wanted {
		have, ok := existing[w.Name]
		if !ok {
			if _, err := js.CreateStream(ctx, w); err != nil {
				return fmt.Errorf("create stream %s: %w", w.Name, err)
			}
			continue
		}
		if next, changed := merge(have, w); changed {
			if _, err := js.UpdateStream(ctx, next); err != nil {
				return fmt.Errorf("update stream %s: %w", w.Name, err)
			}
		}
	}
	if _, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:      StateBucket,
		Description: "cursors, leases and marks of consultd",
		History:     1,
		Storage:     jetstream.FileStorage,
		Replicas:    o.Replicas,
	}); err != nil {
		return fmt.Errorf("bucket %s: %w", StateBucket, err)
	}
	return nil
}

// merge applies to an existing stream what may be changed in place, and leaves alone whatever else the operator set.
func merge(have, want jetstream.StreamConfig) (jetstream.StreamConfig, bool) {
	next := have
	next.MaxAge, next.Duplicates, next.Replicas = want.MaxAge, want.Duplicates, want.Replicas
	next.DenyDelete = have.DenyDelete || want.DenyDelete
	next.DenyPurge = have.DenyPurge || want.DenyPurge
	next.Subjects = slices.Clone(have.Subjects)
	for _, s := range want.Subjects {
		if !slices.Contains(next.Subjects, s) {
			next.Subjects = append(next.Subjects, s)
		}
	}
	changed := next.MaxAge != have.MaxAge || next.Duplicates != have.Duplicates || next.Replicas != have.Replicas ||
		next.DenyDelete != have.DenyDelete || next.DenyPurge != have.DenyPurge || len(next.Subjects) != len(have.Subjects)
	return next, changed
}

const moveAway = "cannot be changed in place: back the stream up, remove it, start consultd again, and restore what is needed"

// compare lists what stands in the way of using an existing stream.
func compare(have, want jetstream.StreamConfig) []Incompatible {
	var out []Incompatible
	differ := func(field string, h, w any, do string) {
		out = append(out, Incompatible{
			Stream: want.Name, Field: field, Have: fmt.Sprint(h), Want: fmt.Sprint(w), Do: do,
		})
	}
	if have.Retention != want.Retention {
		differ("retention", have.Retention, want.Retention, moveAway)
	}
	if have.Storage != want.Storage {
		differ("storage", have.Storage, want.Storage, moveAway)
	}
	if have.Discard != want.Discard {
		differ("discard", have.Discard, want.Discard, "set it with: nats stream edit "+want.Name)
	}
	if have.MaxMsgsPerSubject > 0 {
		differ("max_msgs_per_subject", have.MaxMsgsPerSubject, "no limit", "remove the limit, it would forget entries")
	}
	if have.NoAck {
		differ("no_ack", true, false, "switch acknowledgements on")
	}
	if have.Sealed {
		differ("sealed", true, false, moveAway)
	}
	if have.Mirror != nil || len(have.Sources) > 0 {
		differ("mirror or sources", "set", "none", moveAway)
	}
	if have.SubjectTransform != nil {
		differ("subject_transform", "set", "none", "remove the transform: consultd reads the subjects as they were sent")
	}
	for _, h := range have.Subjects {
		for _, w := range want.Subjects {
			if h != w && overlap(h, w) {
				differ("subjects", h, w, "replace the overlapping subject with: nats stream edit "+want.Name)
			}
		}
	}
	return out
}

// collisions lists the subjects of another stream that would also take what belongs into the wanted one.
func collisions(other, want jetstream.StreamConfig) []Incompatible {
	var out []Incompatible
	for _, o := range other.Subjects {
		for _, w := range want.Subjects {
			if overlap(o, w) {
				out = append(out, Incompatible{
					Stream: want.Name, Field: "subjects", Have: o + " in stream " + other.Name, Want: w,
					Do: "take that subject out of stream " + other.Name + ", or run consultd in an account of its own",
				})
			}
		}
	}
	return out
}

// Incompatible is one difference that Reconcile will not change.
type Incompatible struct {
	Stream, Field, Have, Want string
	Do                        string // what the operator can do
}

// IncompatibleError lists everything that keeps consultd from using the server's streams.
type IncompatibleError struct {
	Problems []Incompatible
}

// Error names every stream and field, one to a line.
func (e *IncompatibleError) Error() string {
	var b strings.Builder
	b.WriteString("nats streams are not usable as they are; nothing was changed:")
	for _, p := range e.Problems {
		fmt.Fprintf(&b, "\n  %s: %s is %s, wanted %s: %s", p.Stream, p.Field, p.Have, p.Want, p.Do)
	}
	return b.String()
}

// overlap says whether two subjects, wildcards included, can match one and the same message.
func overlap(a, b string) bool {
	as, bs := strings.Split(a, "."), strings.Split(b, ".")
	for i := 0; ; i++ {
		switch {
		case i == len(as) && i == len(bs):
			return true
		case i == len(as) || i == len(bs):
			return false
		case as[i] == ">" || bs[i] == ">":
			return true
		case as[i] != bs[i] && as[i] != "*" && bs[i] != "*":
			return false
		}
	}
}

// transient says whether the same request may succeed later without anybody changing anything.
func transient(err error) bool {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.Code >= 500 || api.ErrorCode == storageFull
	}
	for _, e := range []error{
		nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, nats.ErrReconnectBufExceeded, nats.ErrStaleConnection,
		nats.ErrConnectionReconnecting, context.DeadlineExceeded, jetstream.ErrNoStreamResponse, jetstream.ErrAsyncPublishTimeout,
		jetstream.ErrTooManyStalledMsgs, jetstream.ErrJetStreamNotEnabled,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
