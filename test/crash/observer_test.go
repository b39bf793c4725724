package crash_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	goredis "github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"consultd/config"
	"consultd/handlers"
	"consultd/handlers/nats"
	"consultd/handlers/pubnub"
	"consultd/orchestrator/daemon"
	"consultd/states"
	"consultd/store"
	"consultd/test/clinic"
	standin "consultd/test/pubnub"
)

// lateness bounds how long a timer may fire after it was due, was armed, and somebody was there again to see it.
const lateness = 10 * time.Second

// far is a due time that no test waits for.
const far = 30 * time.Second

// observer compares what the logs hold with everything that must follow from it.
type observer struct {
	t       *testing.T
	c       *clinic.Clinic
	client  *nats.Client
	backend *clinic.Backend
	redis   *goredis.Client
	store   *store.Store
	ring    *pubnub.KeyRing
	folds   map[states.Lane]*fold
	quiet   map[string]uint64 // escalation to the position up to which its pages must have been said
	up      time.Time         // when the last daemon began, for timers that fell due before
}

func observe(t *testing.T, c *clinic.Clinic) *observer {
	t.Helper()
	client, err := nats.Connect(t.Context(), nats.Options{URLs: c.Config.NATS.URLs, Name: "observer", Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	ring, err := pubnub.NewKeyRing(clinic.CipherKey)
	if err != nil {
		t.Fatal(err)
	}
	codec, err := handlers.New(handlers.Options{Organization: clinic.Organization, Decrypt: ring.Decrypt})
	if err != nil {
		t.Fatal(err)
	}
	o := &observer{t: t, c: c, client: client, backend: c.Backend(), ring: ring, quiet: map[string]uint64{}}
	o.folds = map[states.Lane]*fold{
		states.LaneNormal:    newFold(states.LaneNormal, codec, c.Config.Partitions.Normal),
		states.LaneEmergency: newFold(states.LaneEmergency, codec, c.Config.Partitions.Emergency),
	}
	o.look(c.Redis.Addr())
	return o
}

// look makes the observer look into the Redis at an address.
func (o *observer) look(addr string) {
	o.t.Helper()
	o.redis = goredis.NewClient(&goredis.Options{Addr: addr, MaxRetries: 20})
	o.t.Cleanup(func() { _ = o.redis.Close() })
	cfg := *o.c.Config
	cfg.Redis.Addr = addr
	s, err := daemon.OpenStore(o.t.Context(), &cfg, zerolog.Nop())
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { _ = s.Close() })
	o.store = s
}

// entries reads what a stream holds behind a position.
func (o *observer) entries(stream string, after uint64) []*jetstream.RawStreamMsg {
	o.t.Helper()
	list, err := o.tryEntries(stream, after)
	if err != nil {
		o.t.Fatalf("read %s: %v", stream, err)
	}
	return list
}

func (o *observer) tryEntries(stream string, after uint64) ([]*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(o.t.Context(), 20*time.Second)
	defer cancel()
	s, err := o.client.JS.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	last := s.CachedInfo().State.LastSeq
	if last <= after {
		return nil, nil
	}
	consumer, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1, AckPolicy: jetstream.AckNonePolicy,
		MemoryStorage: true, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.DeleteConsumer(context.WithoutCancel(ctx), consumer.CachedInfo().Name) }()
	list := make([]*jetstream.RawStreamMsg, 0, last-after)
	for pos := after; pos < last && ctx.Err() == nil; {
		batch, err := consumer.Fetch(int(last-pos), jetstream.FetchMaxWait(time.Second)) //nolint:gosec // a small count
		if err != nil {
			return nil, err
		}
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return nil, err
			}
			pos = meta.Sequence.Stream
			list = append(list, &jetstream.RawStreamMsg{
				Sequence: pos, Subject: m.Subject(), Header: m.Headers(), Data: m.Data(), Time: meta.Timestamp,
			})
		}
	}
	return list, ctx.Err()
}

// fold takes what the logs have got since the last time.
func (o *observer) fold() error {
	for lane, f := range o.folds {
		list, err := o.tryEntries(nats.StreamOf(lane), f.read)
		if err != nil {
			return err
		}
		for _, m := range list {
			f.add(asEntry(lane, m))
		}
	}
	return nil
}

func asEntry(lane states.Lane, m *jetstream.RawStreamMsg) states.Entry {
	e := states.Entry{Lane: lane, Seq: m.Sequence, At: m.Time.UTC(), Subject: m.Subject, Header: map[string]string{}, Data: m.Data}
	for k := range m.Header {
		e.Header[k] = m.Header.Get(k)
	}
	return e
}

// settle answers every emergency once its pages are out, and waits until nothing is left to be done.
func (o *observer) settle() {
	o.t.Helper()
	o.c.Eventually("everything decided and said", func() (bool, string) {
		if why := o.busy(); why != "" {
			return false, why
		}
		f := o.folds[states.LaneEmergency]
		for _, r := range f.openEscalations() {
			if _, asked := o.quiet[r.ID.ID]; asked {
				return false, r.ID.String() + " is open"
			}
			o.quiet[r.ID.ID] = f.read
			o.answer(r.Escalation)
		}
		return o.idle()
	})
}

// decided waits until what the logs hold is decided and said, whatever timers may still bring.
func (o *observer) decided() {
	o.t.Helper()
	o.c.Eventually("everything decided and said", func() (bool, string) {
		why := o.busy()
		return why == "", why
	})
}

func (o *observer) answer(e *states.Escalation) {
	o.t.Helper()
	channel := handlers.Emergency(e.Department)
	if !e.Answered() {
		o.backend.Say("on-call:dr-chen", channel, clinic.M{"action": "EMERGENCY_ACCEPTED", "escalationId": e.ID, "userId": "dr-chen"})
	}
	o.backend.Say("on-call:dr-chen", channel, clinic.M{"action": "EMERGENCY_RESOLVED", "escalationId": e.ID, "userId": "dr-chen", "outcomeCode": "done"})
}

// busy says what has still to be decided or said, "" when nothing has.
func (o *observer) busy() string {
	if err := o.fold(); err != nil {
		return err.Error()
	}
	for lane, f := range o.folds {
		for n, last := range f.last {
			p := states.Partition{Lane: lane, Number: n}
			text, err := o.redis.HGet(o.t.Context(), partitionKey(p), "seq").Result()
			if seq, _ := strconv.ParseUint(text, 10, 64); seq < last {
				return fmt.Sprintf("partition %s%d is at %q (%v) of %d", lane, n, text, err, last)
			}
		}
	}
	if missing := o.unheard(); len(missing) > 0 {
		return fmt.Sprintf("%d messages of apps are not in the log yet: %v", len(missing), missing[0])
	}
	if left := o.outboxes(); len(left) > 0 {
		return fmt.Sprintf("outboxes hold %v", left)
	}
	return ""
}

// heard counts the entries of each message of an app, by channel and timetoken.
func (o *observer) heard() map[string]int {
	heard := map[string]int{}
	if o.c.PubNub == nil {
		return heard
	}
	for _, m := range o.c.PubNub.Published("") {
		c, err := handlers.ParseChannel(m.Channel)
		if m.UUID != config.Default().PubNub.UserID && err == nil && c.Inbound() {
			heard[m.Channel+"@"+strconv.FormatInt(m.Timetoken, 10)] = 0
		}
	}
	for _, f := range o.folds {
		for place, n := range f.fromApps {
			heard[place] += n
		}
	}
	return heard
}

// unheard lists the messages of apps that no log has.
func (o *observer) unheard() []string {
	var missing []string
	for place, n := range o.heard() {
		if n == 0 {
			missing = append(missing, place)
		}
	}
	return missing
}

// ingested checks that each message of an app became one entry.
func (o *observer) ingested() {
	o.t.Helper()
	for place, n := range o.heard() {
		if n != 1 {
			o.t.Errorf("P18: the message %s is in the log %d times", place, n)
		}
	}
}

// idle says whether no timer will do anything soon.
func (o *observer) idle() (bool, string) {
	for _, f := range o.folds {
		for id, due := range f.armed() {
			if until := time.Until(due); until < far {
				return false, fmt.Sprintf("timer %s is due in %s", id, until)
			}
		}
		if open := f.openEscalations(); len(open) > 0 {
			return false, fmt.Sprintf("%d escalations are open", len(open))
		}
	}
	return true, ""
}

func key(parts ...string) string { return "{" + clinic.Organization + "}:" + strings.Join(parts, ":") }

func partitionKey(p states.Partition) string {
	return key("partition", string(p.Lane), strconv.Itoa(p.Number))
}

func (o *observer) keys(pattern string) []string {
	o.t.Helper()
	list, err := o.redis.Keys(o.t.Context(), key(pattern)).Result()
	if err != nil {
		o.t.Fatal(err)
	}
	return list
}

// outboxes gives the length of every outbox that is not empty.
func (o *observer) outboxes() map[string]int64 {
	left := map[string]int64{}
	for _, k := range o.keys("outbox:*") {
		if n := o.redis.XLen(o.t.Context(), k).Val(); n > 0 {
			left[k] = n
		}
	}
	return left
}

// verify settles and compares everything. Each finding begins with the promise that it breaks.
func (o *observer) verify() {
	o.t.Helper()
	o.settle()
	o.compare()
}

func (o *observer) compare() {
	o.t.Helper()
	o.ingested()
	o.stored()
	o.timers()
	o.saidOnNATS()
	o.saidOnPubNub()
	o.audited()
}

// stored compares the records and everything else in Redis with the folded logs.
func (o *observer) stored() {
	o.t.Helper()
	ctx := o.t.Context()
	known := map[string]bool{}
	rooms, queues, pairs := map[string]map[string]float64{}, map[string]map[string]float64{}, map[string]string{}
	load := map[string]string{}
	for lane, f := range o.folds {
		for seq := uint64(1); seq <= f.read; seq++ {
			if f.fates[seq] == "" {
				o.t.Errorf("P1: entry %s%d has no fate", lane, seq)
			}
		}
		for id, want := range f.records {
			known[key(id.String())] = true
			if int64(len(f.applied[id])) != want.Version {
				o.t.Errorf("P2: %s has version %d after %d events", id, want.Version, len(f.applied[id]))
			}
			got, err := o.store.Load(ctx, id)
			if err != nil {
				o.t.Errorf("P3: %v", err)
				continue
			}
			if got[0].Version != want.Version {
				o.t.Errorf("P2: %s is stored with version %d, the log makes it %d", id, got[0].Version, want.Version)
			}
			if a, b := asJSON(o.t, got[0]), asJSON(o.t, want); !bytes.Equal(a, b) {
				o.t.Errorf("P3: %s is stored as\n%s\nthe log makes it\n%s", id, a, b)
			}
		}
		maps.Copy(rooms, f.rooms)
		maps.Copy(queues, f.queues)
		for provider, n := range f.load {
			load[provider] = strconv.Itoa(n)
		}
		for pair, appointment := range f.pairs {
			pairs[strings.Join(pair[:], "/")] = appointment
			if got, err := o.store.Pair(ctx, pair[0], pair[1]); err != nil || got != appointment {
				o.t.Errorf("P3: pair %v is %q (%v), the log makes it %q", pair, got, err, appointment)
			}
		}
	}
	for _, kind := range []string{"visit:*", "escalation:*", "desk:*"} {
		for _, k := range o.keys(kind) {
			if !known[k] {
				o.t.Errorf("P3: %s is stored, but no entry made it", k)
			}
		}
	}
	if n := o.redis.HLen(ctx, key("pairs")).Val(); n != int64(len(pairs)) {
		o.t.Errorf("P3: %d pairs are stored, the log makes %d", n, len(pairs))
	}
	if got := o.redis.HGetAll(ctx, key("load")).Val(); !maps.Equal(got, load) {
		o.t.Errorf("P3: load is %v, the log makes it %v", got, load)
	}
	o.places("room", rooms)
	o.places("queue", queues)
}

func (o *observer) places(what string, want map[string]map[string]float64) {
	o.t.Helper()
	got := map[string]map[string]float64{}
	for _, k := range o.keys(what + ":*") {
		_, where, _ := strings.Cut(k, what+":")
		got[where] = map[string]float64{}
		for _, z := range o.redis.ZRangeWithScores(o.t.Context(), k, 0, -1).Val() {
			got[where][fmt.Sprint(z.Member)] = z.Score
		}
	}
	if !reflect.DeepEqual(got, want) {
		o.t.Errorf("P3: %ss are %v, the log makes them %v", what, got, want)
	}
}

func asJSON(t *testing.T, r states.Record) []byte {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if r.Escalation != nil {
		b = append(b, r.Escalation.Reason.Reveal()...)
	}
	return b
}

// timers compares the armed rows with the folded logs, and the times at which timers fired.
func (o *observer) timers() {
	o.t.Helper()
	want, got := map[string]int64{}, map[string]int64{}
	for _, f := range o.folds {
		for id, due := range f.armed() {
			want[id] = due.Add(time.Millisecond - 1).UnixMilli()
		}
		for _, x := range f.fired {
			if x.at.Before(x.due) {
				o.t.Errorf("P7: timer %s fired %s too early", x.id, x.due.Sub(x.at))
			}
			seen := slices.MaxFunc([]time.Time{x.due, x.armed, o.up}, time.Time.Compare)
			if late := x.at.Sub(seen); late > lateness {
				o.t.Errorf("P7: timer %s fired %s after it was due", x.id, late)
			}
		}
	}
	for _, k := range o.keys("timers:*") {
		for _, z := range o.redis.ZRangeWithScores(o.t.Context(), k, 0, -1).Val() {
			got[fmt.Sprint(z.Member)] = int64(z.Score)
		}
	}
	if !maps.Equal(got, want) {
		o.t.Errorf("P7: armed timers are\n%v\nthe log makes them\n%v", got, want)
	}
}

// utterance is a message as a broker holds it.
type utterance struct {
	channel string
	body    []byte
}

// saidOnNATS compares the streams of everything said with the folded logs.
func (o *observer) saidOnNATS() {
	o.t.Helper()
	held := map[string][]utterance{}
	var order []string
	for _, stream := range []string{nats.OutStream, nats.PagesStream, nats.DeadStream} {
		for _, m := range o.entries(stream, 0) {
			id := m.Header.Get(handlers.HeaderMsgID)
			held[id] = append(held[id], utterance{m.Subject, m.Data})
			order = append(order, id)
		}
	}
	raised := map[string]bool{}
	for lane := range o.folds {
		for _, m := range o.entries(nats.StreamOf(lane), 0) {
			raised[m.Header.Get(handlers.HeaderMsgID)] = true
		}
	}
	expected := map[string]said{}
	var all []said
	for _, f := range o.folds {
		for _, s := range f.said {
			subject, intoLog := handlers.MessageSubject(s.Channel)
			switch {
			case s.sink != states.SinkNATS:
				continue
			case intoLog:
				if !raised[s.ID] {
					o.t.Errorf("P4: %s of entry %d was not raised into the log", s.ID, s.seq)
				}
				continue
			}
			expected[s.ID] = s
			all = append(all, s)
			found := held[s.ID]
			if len(found) == 0 && !o.spared(f, s) {
				o.t.Errorf("P4: %s on %s of entry %d was never said", s.ID, subject, s.seq)
			}
			if len(found) > 1 {
				o.t.Errorf("P5: %s on %s is there %d times", s.ID, subject, len(found))
			}
			for _, u := range found {
				if u.channel != subject || !bytes.Equal(u.body, s.Payload) {
					o.t.Errorf("P5: %s on %s is\n%s\nthe log makes it\n%s", s.ID, u.channel, u.body, s.Payload)
				}
			}
		}
	}
	for id, u := range held {
		if own := regexp.MustCompile(`"subject":"consult\.(log|urgent)\.`); own.Match(u[0].body) {
			o.t.Errorf("P1: the daemon cannot read its own entry: %s", u[0].body)
		}
		if _, ok := expected[id]; !ok {
			o.t.Errorf("P1: %s on %s follows from no entry: %s", id, u[0].channel, u[0].body)
		}
	}
	inOrder(o.t, "NATS", all, order)
}

// spared says whether a page may be missing: its escalation was answered before it left.
func (o *observer) spared(f *fold, s said) bool {
	return s.Escalation != "" && f.answered[s.Escalation] > s.seq && s.seq > o.quiet[s.Escalation]
}

// inOrder compares, per consultation channel, the order in which messages were first said with the order of the log.
func inOrder(t *testing.T, broker string, expected []said, order []string) {
	t.Helper()
	rank := map[string]int{}
	for i, id := range order {
		if _, again := rank[id]; !again {
			rank[id] = i
		}
	}
	last := map[string]int{}
	for _, s := range expected {
		if !strings.HasPrefix(s.Channel, "consultation.") {
			continue
		}
		at, ok := rank[s.ID]
		if ok && at < last[s.Channel] {
			t.Errorf("P9: on %s, %s of entry %d was said too late", broker, s.ID, s.seq)
		}
		last[s.Channel] = max(last[s.Channel], at)
	}
}

// saidOnPubNub compares what the stand-in was given with the folded logs.
func (o *observer) saidOnPubNub() {
	o.t.Helper()
	if o.c.PubNub == nil {
		return
	}
	held := map[string][]utterance{}
	pushes := map[string]int{}
	var order []string
	for _, m := range o.spoken() {
		body, push := o.open(m.Payload)
		if push {
			pushes[m.Channel+canonical(o.t, body)]++
			continue
		}
		id, _ := body["id"].(string)
		held[id+" "+m.Channel] = append(held[id+" "+m.Channel], utterance{m.Channel, []byte(canonical(o.t, body))})
		order = append(order, id)
	}
	expected := map[string]bool{}
	var all []said
	for _, f := range o.folds {
		for _, s := range f.said {
			if s.sink != states.SinkPubNub {
				continue
			}
			all = append(all, s)
			k := s.ID + " " + s.Channel
			expected[k] = true
			content, push := split(o.t, s.Payload)
			if len(held[k]) == 0 && !o.spared(f, s) {
				o.t.Errorf("P4: %s on PubNub channel %s of entry %d was never said", s.ID, s.Channel, s.seq)
			}
			if len(push) > 0 && len(held[k]) > 0 {
				if pushes[s.Channel+canonical(o.t, push)]--; pushes[s.Channel+canonical(o.t, push)] < 0 {
					o.t.Errorf("P4: the push message of %s on PubNub channel %s was never said", s.ID, s.Channel)
				}
			}
			want := canonical(o.t, content)
			for _, u := range held[k] {
				if string(u.body) != want {
					o.t.Errorf("P5: %s on PubNub channel %s is\n%s\nthe log makes it\n%s", s.ID, u.channel, u.body, want)
				}
			}
		}
	}
	for k := range held {
		if !expected[k] {
			o.t.Errorf("P1: %s was said on PubNub, but follows from no entry", k)
		}
	}
	inOrder(o.t, "PubNub", all, order)
}

// spoken is what consultd itself published, without the projection of the audit.
func (o *observer) spoken() []standin.Message {
	return slices.DeleteFunc(o.c.PubNub.Published(""), func(m standin.Message) bool {
		return m.UUID != config.Default().PubNub.UserID || strings.HasPrefix(m.Channel, "audit.")
	})
}

// open reads a message as an app does. What the push gateways read travels in clear, as a message of its own.
func (o *observer) open(payload []byte) (body map[string]any, push bool) {
	o.t.Helper()
	plain, encrypted, err := o.ring.Decrypt("", payload)
	if err != nil {
		o.t.Fatal(err)
	}
	content, gateways := split(o.t, plain)
	if encrypted {
		return content, false
	}
	if len(content) > 0 {
		o.t.Fatalf("a message of consultd is not encrypted: %s", payload)
	}
	return gateways, true
}

// split takes the keys of the push gateways out of a message.
func split(t *testing.T, payload []byte) (content, push map[string]any) {
	t.Helper()
	if err := json.Unmarshal(payload, &content); err != nil {
		t.Fatal(err)
	}
	push = map[string]any{}
	for name, value := range content {
		if strings.HasPrefix(name, "pn_") {
			push[name] = value
			delete(content, name)
		}
	}
	return content, push
}

func canonical(t *testing.T, body map[string]any) string {
	t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// repeatedOnPubNub counts the messages that the stand-in was given more than once.
func (o *observer) repeatedOnPubNub() int {
	o.t.Helper()
	times, repeated := map[string]int{}, 0
	for _, m := range o.spoken() {
		if body, push := o.open(m.Payload); !push {
			k := fmt.Sprint(body["id"], m.Channel)
			if times[k]++; times[k] == 2 {
				repeated++
			}
		}
	}
	return repeated
}

// audited lets the operator's own verification look at the audit stream.
func (o *observer) audited() {
	o.t.Helper()
	keys, err := o.c.Config.Audit.PublicKeys()
	if err != nil {
		o.t.Fatal(err)
	}
	report, err := nats.Verify(o.t.Context(), o.client, nats.VerifyOptions{Keys: nats.KeyRing(keys)})
	if err != nil {
		o.t.Fatal(err)
	}
	for _, finding := range report.Findings {
		o.t.Errorf("audit: %s", finding)
	}
	held := map[string]string{}
	for _, m := range o.entries(nats.AuditStream, 0) {
		if m.Subject != handlers.AuditEntrySubject {
			continue
		}
		for id, entry := range auditEntries(o.t, m.Data) {
			if before, again := held[id]; again && before != entry {
				o.t.Errorf("P5: audit entry %s is there twice:\n%s\n%s", id, before, entry)
			}
			held[id] = entry
		}
	}
	expected := 0
	for _, f := range o.folds {
		for _, s := range f.said {
			if s.sink != states.SinkAudit {
				continue
			}
			for id, entry := range auditEntries(o.t, s.Payload) {
				expected++
				if held[id] != entry {
					o.t.Errorf("P1: audit entry %s of entry %d is\n%s\nthe log makes it\n%s", id, s.seq, held[id], entry)
				}
			}
		}
	}
	if len(held) != expected || report.Entries != expected {
		o.t.Errorf("P1: the audit stream holds %d entries (%d by its verification), the log makes %d", len(held), report.Entries, expected)
	}
}

// auditEntries takes a message of the audit stream apart.
func auditEntries(t *testing.T, data []byte) map[string]string {
	t.Helper()
	var list struct{ Entries []json.RawMessage }
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	entries := map[string]string{}
	for _, raw := range list.Entries {
		var e struct{ ID string }
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		entries[e.ID] = string(raw)
	}
	return entries
}

// snapshot is everything that Redis keeps about visits and escalations, in clear, to be compared with another one.
func (o *observer) snapshot() map[string]string {
	o.t.Helper()
	ctx := o.t.Context()
	all := map[string]string{}
	for _, f := range o.folds {
		for id := range f.records {
			got, err := o.store.Load(ctx, id)
			if err != nil {
				o.t.Fatal(err)
			}
			all[id.String()] = string(asJSON(o.t, got[0]))
		}
	}
	for _, pattern := range []string{"timers:*", "room:*", "queue:*"} {
		for _, k := range o.keys(pattern) {
			all[k] = fmt.Sprint(o.redis.ZRangeWithScores(ctx, k, 0, -1).Val())
		}
	}
	for _, k := range []string{key("load"), key("pairs")} {
		fields := o.redis.HGetAll(ctx, k).Val()
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			all[k] += name + "=" + fields[name] + " "
		}
	}
	return all
}

// entryCount is the number of entries of all logs.
func (o *observer) entryCount() int {
	n := 0
	for _, f := range o.folds {
		n += len(f.fates)
	}
	return n
}
