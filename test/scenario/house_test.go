package scenario_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"

	"consultd/handlers"
	"consultd/handlers/nats"
	"consultd/handlers/pubnub"
	"consultd/orchestrator/daemon"
	"consultd/states"
	"consultd/store"
	"consultd/test/clinic"
)

// freeText is what somebody writes about a patient. It must never be found outside an encrypted message.
const freeText = "CANARY-FREE-TEXT crushing chest pain"

// patientMark is part of every patient's id. It must never be found in the daemon's log or in its metrics.
const patientMark = "canary-pat-"

// departments is how many stories a house has room for: each has people on call in the configuration.
const departments = 48

// TestMain lets more stories run at once than there are processors, because nearly all their time is waiting.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// house is a clinic in which several stories happen at once, and what they are all judged by in the end.
type house struct {
	t      *testing.T
	clinic *clinic.Clinic
	ear    *ear
	store  *store.Store
	redis  *redis.Client
	allow  []string // parts of error lines that are expected in the daemon's log

	mu      sync.Mutex
	count   int
	logs    []*clinic.Lines
	ops     []string
	expect  map[deadKey]string // dead letters that stories have caused
	secrets []string
}

// build is what a house differs by.
type build struct {
	clinic.Options
	timing  string   // the configuration's section, in YAML
	paging  string   // further keys of the configuration's section escalation, in YAML
	allow   []string // parts of error lines that are expected in the daemon's log
	daemons int      // replicas; 1 when 0
	manual  bool     // the test itself calls run, and listen after it
}

// open starts servers and consultd.
func open(t *testing.T, b build) *house {
	t.Helper()
	var onCall strings.Builder
	for n := 1; n <= departments; n++ {
		fmt.Fprintf(&onCall, "    dept-%d: [dr-chen-%d, dr-silva-%d]\n", n, n, n)
	}
	b.Extra += "escalation:\n  failsafe: [" + sharedSupervisor + "]\n  transports: [sms]\n  default_department: lobby\n" + b.paging
	if !strings.Contains(b.paging, "source:") {
		b.Extra += "  on_call:\n" + onCall.String()
	}
	if b.timing != "" {
		b.Extra += "timing: {" + b.timing + "}\n"
	}
	h := &house{t: t, clinic: clinic.Start(t, b.Options), allow: b.allow, expect: map[deadKey]string{}}
	if !b.manual {
		for range max(1, b.daemons) {
			h.run()
		}
		h.listen()
	}
	var err error
	if h.store, err = daemon.OpenStore(t.Context(), h.clinic.Config, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	h.redis = redis.NewClient(&redis.Options{Addr: h.clinic.Redis.Addr(), DisableIdentity: true})
	t.Cleanup(func() { _ = errors.Join(h.store.Close(), h.redis.Close()) })
	c := h.clinic.Config
	h.secrets = []string{clinic.CipherKey, c.Audit.SigningKey.Reveal(), c.PubNub.SecretKey.Reveal(), c.Sealing.Keyset.Reveal()}
	return h
}

// listen begins to hear; the streams must exist, so consultd must have run.
func (h *house) listen() {
	h.t.Helper()
	h.ear = listen(h.t, h.clinic)
}

// awaitDue waits until timers set by now are overdue by Redis's clock.
func (h *house) awaitDue(t *testing.T, after time.Duration) {
	t.Helper()
	clock := func() time.Time {
		now, err := h.redis.Time(t.Context()).Result()
		if err != nil {
			t.Fatal(err)
		}
		return now
	}
	due := clock().Add(after)
	eventually(t, "the timers' time", func() (bool, string) { return clock().After(due), "" })
}

// run starts one more consultd, whose log and metrics are judged with the others'.
func (h *house) run() *clinic.Daemon {
	h.t.Helper()
	d := h.clinic.Run()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.logs = append(h.logs, d.Log)
	h.ops = append(h.ops, d.OpsURL)
	return d
}

// story begins a story with people of its own.
func (h *house) story(t *testing.T) *story {
	t.Helper()
	h.mu.Lock()
	h.count++
	n := h.count
	h.mu.Unlock()
	if n > departments {
		t.Fatal("the house is full: raise departments")
	}
	c := h.clinic.For(t)
	return &story{
		t: t, house: h, clinic: c, backend: c.Backend(), claimed: map[string]int{},
		provider: fmt.Sprintf("dr-%d", n), patient: fmt.Sprintf("%s%d", patientMark, n), department: fmt.Sprintf("dept-%d", n),
		appointment: fmt.Sprintf("apt-%d", n), onCall: [2]string{fmt.Sprintf("dr-chen-%d", n), fmt.Sprintf("dr-silva-%d", n)},
	}
}

// tell runs stories side by side and waits for all of them.
func (h *house) tell(stories map[string]func(*story)) {
	h.t.Helper()
	h.t.Run("story", func(t *testing.T) {
		for name, tell := range stories {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				tell(h.story(t))
			})
		}
	})
}

// fence puts something unreadable on a channel and waits for its dead letter: a partition decides and speaks in the order of
// its log, so everything that it had to say before has been said.
func (h *house) fence(s *story, channel string) {
	s.t.Helper()
	lane := "n"
	if strings.HasPrefix(channel, "emergency.") {
		lane = "e"
	}
	h.buried(s.t, deadKey{lane, s.backend.SayRaw("backend:fence", channel, []byte("fence"))}, "NOT_JSON")
}

// buried waits for the dead letter of a log entry.
func (h *house) buried(t *testing.T, where deadKey, code string) {
	t.Helper()
	h.mu.Lock()
	h.expect[where] = code
	h.mu.Unlock()
	h.ear.await(t, fmt.Sprintf("dead letter %s of entry %d", code, where.seq), func() (bool, string) {
		h.ear.mu.Lock()
		defer h.ear.mu.Unlock()
		_, ok := h.ear.dead[where]
		return ok, fmt.Sprintf("%d dead letters, none of it", len(h.ear.dead))
	})
	h.ear.mu.Lock()
	letter := h.ear.dead[where]
	h.ear.mu.Unlock()
	if letter["code"] != code {
		t.Errorf("the dead letter of entry %d says %v (%v), want %s", where.seq, letter["code"], letter["detail"], code)
	}
}

// auditOf is every audit entry so far about something said on one of the channels.
func (e *ear) auditOf(channels ...string) []states.AuditEntry {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []states.AuditEntry
	for _, entry := range e.audit {
		if slices.Contains(channels, entry.Resource.Channel) {
			found = append(found, entry)
		}
	}
	return found
}

// judge is what every story is judged by, once all have been told.
func (h *house) judge() {
	h.t.Helper()
	t := h.t
	if t.Failed() {
		return // the stories say more than what follows from their failure
	}
	client, err := nats.Connect(t.Context(), nats.Options{URLs: h.clinic.Config.NATS.URLs, Name: "judge", Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	h.everyEntryIsAnswered()
	h.ear.catchUp(t)
	h.everyWordIsAudited()
	h.theAuditTrailHolds(client)
	h.nothingIsSaidTwice()
	h.bothBrokersSayTheSame()
	h.deadLettersAreListed(client)
	h.theLogIsClean()
	h.nothingLeaks()
}

// everyEntryIsAnswered reads the logs and waits until each entry has its decision in the audit trail or its dead letter.
func (h *house) everyEntryIsAnswered() {
	h.t.Helper()
	ring, err := pubnub.NewKeyRing(clinic.CipherKey)
	if err != nil {
		h.t.Fatal(err)
	}
	codec, err := handlers.New(handlers.Options{Organization: clinic.Organization, Decrypt: ring.Decrypt})
	if err != nil {
		h.t.Fatal(err)
	}
	for lane, stream := range map[states.Lane]string{states.LaneNormal: "CONSULT_LOG", states.LaneEmergency: "CONSULT_EMERGENCY"} {
		for _, m := range h.held(stream) {
			entry := states.Entry{Lane: lane, Seq: m.Sequence, At: m.Time, Subject: m.Subject, Header: map[string]string{}, Data: m.Data}
			for name := range m.Header {
				entry.Header[name] = m.Header.Get(name)
			}
			if strings.HasSuffix(entry.Subject, ".rules") || strings.Contains(entry.Subject, ".timer.") {
				continue // rules are nobody's doing, and a timer that came too late leaves no trace
			}
			event, err := codec.Decode(entry)
			var refused *handlers.Refused
			if errors.As(err, &refused) && refused.Ignored() {
				continue
			}
			h.ear.await(h.t, "answer to entry "+fmt.Sprint(m.Sequence)+" of "+stream+" on "+m.Subject, func() (bool, string) {
				h.ear.mu.Lock()
				defer h.ear.mu.Unlock()
				if refused != nil {
					_, buried := h.ear.dead[deadKey{string(lane), m.Sequence}]
					return buried, "no dead letter"
				}
				_, audited := h.ear.audited[string(event.ID)+".a0"]
				return audited, "no audit entry"
			})
		}
	}
}

// everyWordIsAudited holds what people were told against what the audit trail says they were told.
func (h *house) everyWordIsAudited() {
	h.t.Helper()
	said := map[string]bool{}
	for channel, list := range h.ear.channels() {
		class, rest, _ := strings.Cut(channel, ".")
		if class != "notification" && class != "page" {
			continue
		}
		person := rest[strings.LastIndex(rest, ".")+1:]
		for _, m := range list {
			id := fmt.Sprint(m["id"])
			said[id] = true
			h.ear.await(h.t, "audit entry of "+id+" to "+person, func() (bool, string) {
				h.ear.mu.Lock()
				defer h.ear.mu.Unlock()
				entry, ok := h.ear.told[id]
				return ok && entry.Details["recipient"] == person, fmt.Sprintf("%+v", entry)
			})
		}
	}
	h.ear.mu.Lock()
	defer h.ear.mu.Unlock()
	for id, entry := range h.ear.told {
		if spared := strings.HasSuffix(entry.Action, "EMERGENCY_ESCALATION"); !said[id] && !spared {
			h.t.Errorf("the audit trail says that %s was told %s, but nobody said it", entry.Details["recipient"], entry.Action)
		}
	}
}

// theAuditTrailHolds verifies chains and checkpoints, and that the audit channel of the apps has all of it.
func (h *house) theAuditTrailHolds(client *nats.Client) {
	h.t.Helper()
	keys, err := h.clinic.Config.Audit.PublicKeys()
	if err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, "a signed audit trail", func() (bool, string) {
		report, err := nats.Verify(h.t.Context(), client, nats.VerifyOptions{Keys: nats.KeyRing(keys)})
		if err != nil {
			return false, err.Error()
		}
		if !report.OK() {
			h.t.Fatalf("the audit trail is damaged: %v", report.Findings)
		}
		return report.Entries > 0 && report.Checkpoints > 0 && report.Unsealed == 0 && report.Unsigned == 0, fmt.Sprintf("%+v", report)
	})
	if h.clinic.PubNub == nil {
		return
	}
	eventually(h.t, "the audit trail on the apps' channel", func() (bool, string) {
		projected := map[string]string{}
		for _, m := range h.onPubNub("audit." + clinic.Organization) {
			var message struct{ Entries []states.AuditEntry }
			if err := json.Unmarshal(m, &message); err != nil {
				h.t.Fatal(err)
			}
			for _, entry := range message.Entries {
				projected[entry.ID] = entry.Hash
			}
		}
		h.ear.mu.Lock()
		defer h.ear.mu.Unlock()
		for id, entry := range h.ear.audited {
			if projected[id] != entry.Hash {
				return false, fmt.Sprintf("%d of %d entries; %s is missing", len(projected), len(h.ear.audited), id)
			}
		}
		return true, ""
	})
}

// onPubNub is what consultd said on a channel of PubNub, decrypted.
func (h *house) onPubNub(channel string) (list []json.RawMessage) {
	h.t.Helper()
	ring, err := pubnub.NewKeyRing(clinic.CipherKey)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, m := range h.clinic.PubNub.Published(channel) {
		if m.UUID != "consultd" {
			continue
		}
		var push map[string]json.RawMessage
		if json.Unmarshal(m.Payload, &push) == nil && len(push) > 0 { // for the push gateways: in clear, and about nobody
			for key := range push {
				if !strings.HasPrefix(key, "pn_") {
					h.t.Fatalf("consultd said %s in clear on %s", key, channel)
				}
			}
			h.clean("a push message", string(m.Payload), []string{patientMark, "apt-", freeText})
			continue
		}
		plain, encrypted, err := ring.Decrypt(channel, m.Payload)
		if err != nil || !encrypted {
			h.t.Fatalf("consultd said something on %s that the apps cannot decrypt: %v", channel, err)
		}
		list = append(list, plain)
	}
	return list
}

// nothingIsSaidTwice looks at the ids under which the streams hold what was said.
func (h *house) nothingIsSaidTwice() {
	h.ear.mu.Lock()
	defer h.ear.mu.Unlock()
	for id, n := range h.ear.ids {
		if n > 1 && id != "" {
			h.t.Errorf("%s was stored %d times", id, n)
		}
	}
	for channel, list := range h.ear.said {
		ids := map[string]bool{}
		for _, m := range list {
			if id := fmt.Sprint(m["id"]); ids[id] {
				h.t.Errorf("%s was said twice on %s", id, channel)
			} else {
				ids[id] = true
			}
		}
	}
}

// bothBrokersSayTheSame compares, channel by channel and in order, what apps and backend were told. A page may be spared on
// one of them when the emergency is answered meanwhile.
func (h *house) bothBrokersSayTheSame() {
	h.t.Helper()
	if h.clinic.PubNub == nil {
		return
	}
	for channel, list := range h.ear.channels() {
		if strings.HasPrefix(channel, "page.") {
			continue // for gateways only
		}
		eventually(h.t, "PubNub saying what NATS says on "+channel, func() (bool, string) {
			var here, there []string
			for _, m := range list {
				if m["type"] != "EMERGENCY_ESCALATION" {
					here = append(here, fmt.Sprint(m["id"]))
				}
			}
			for _, data := range h.onPubNub(channel) {
				var m M
				if err := json.Unmarshal(data, &m); err != nil {
					h.t.Fatal(err)
				}
				if id := fmt.Sprint(m["id"]); m["type"] != "EMERGENCY_ESCALATION" && !slices.Contains(there, id) {
					there = append(there, id) // PubNub has no memory of ids: a repeat carries the same one
				}
			}
			if channel == "notification."+sharedSupervisor { // told from several partitions, among which there is no order
				slices.Sort(here)
				slices.Sort(there)
			}
			return slices.Equal(here, there), fmt.Sprintf("NATS %v\nPubNub %v", here, there)
		})
	}
}

// deadLettersAreListed holds the list that an operator gets against what the stories sent.
func (h *house) deadLettersAreListed(client *nats.Client) {
	h.t.Helper()
	letters, err := nats.NewDeadLetters(client).List(h.t.Context(), 10_000)
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	listed := map[deadKey]bool{}
	for _, l := range letters {
		where := deadKey{string(l.Lane), l.Seq}
		listed[where] = true
		if want := h.expect[where]; l.Code != want || l.Detail == "" {
			h.t.Errorf("a dead letter that no story accounts for, or not like this: %+v, want code %q", l, want)
		}
	}
	for where, code := range h.expect {
		if !listed[where] {
			h.t.Errorf("the list of dead letters lacks %s of entry %+v", code, where)
		}
	}
}

// theLogIsClean finds errors that nobody expected.
func (h *house) theLogIsClean() {
	for _, log := range h.logs {
		for _, line := range log.AtLeast("error", "fatal", "panic") {
			if !slices.ContainsFunc(h.allow, func(part string) bool { return strings.Contains(line, part) }) {
				h.t.Errorf("the daemon's log has an error that nobody expected: %s", line)
			}
		}
	}
}

// nothingLeaks looks for patients, free text and secrets where they must not be.
func (h *house) nothingLeaks() {
	h.t.Helper()
	private := append([]string{freeText, "CANARY"}, h.secrets...)
	for _, log := range h.logs {
		h.clean("the daemon's log", log.String(), append(private, patientMark))
	}
	metrics := "" // of all replicas that still run
	for _, ops := range h.ops {
		if text, ok := get(ops + "/metrics"); ok {
			metrics += "\n" + text
		}
	}
	h.clean("the metrics", metrics, append(private, patientMark))
	for _, metric := range []string{
		"consultd_events_decided_total", "consultd_commits_total", "consultd_messages_delivered_total",
		"consultd_partitions_owned", "consultd_event_seconds_bucket", "consultd_timer_lateness_seconds_bucket", "go_goroutines",
	} {
		if !strings.Contains(metrics, "\n"+metric) {
			h.t.Errorf("/metrics has no %s", metric)
		}
	}
	h.clean("Redis", h.redisDump(), append(private, patientMark))
	for _, stream := range []string{outStream, pagesStream, deadStream, auditStream, "KV_CONSULT_STATE"} {
		var text strings.Builder
		for _, m := range h.held(stream) {
			fmt.Fprintf(&text, "%s %v %s\n", m.Subject, m.Header, m.Data)
		}
		h.clean("the stream "+stream, text.String(), private)
	}
}

// held is what a stream holds, with gaps.
func (h *house) held(stream string) (list []*jetstream.RawStreamMsg) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	s, err := h.ear.js.Stream(ctx, stream)
	if err != nil {
		h.t.Fatal(err)
	}
	state := s.CachedInfo().State
	for seq := max(1, state.FirstSeq); seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			h.t.Fatalf("read %s: %v", stream, err)
		}
		list = append(list, m)
	}
	return list
}

func (h *house) clean(where, text string, words []string) {
	h.t.Helper()
	for _, word := range words {
		if i := strings.Index(text, word); i >= 0 {
			h.t.Errorf("%s holds %q: ...%q...", where, word, text[max(0, i-200):min(len(text), i+200)])
		}
	}
}

func get(url string) (string, bool) {
	resp, err := http.Get(url) //nolint:gosec,noctx // the test's own daemon
	if err != nil {
		return "", false
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return string(body), err == nil
}

// redisDump is every key with everything it holds, in words.
func (h *house) redisDump() string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	var text strings.Builder
	keys := h.redis.Scan(ctx, 0, "*", 1000).Iterator()
	for keys.Next(ctx) {
		key := keys.Val()
		var value any
		var err error
		switch kind := h.redis.Type(ctx, key).Val(); kind {
		case "hash":
			value, err = h.redis.HGetAll(ctx, key).Result()
		case "zset":
			value, err = h.redis.ZRangeWithScores(ctx, key, 0, -1).Result()
		case "stream":
			value, err = h.redis.XRange(ctx, key, "-", "+").Result()
		case "string":
			value, err = h.redis.Get(ctx, key).Result()
		case "set":
			value, err = h.redis.SMembers(ctx, key).Result()
		case "list":
			value, err = h.redis.LRange(ctx, key, 0, -1).Result()
		case "none": // gone meanwhile
		default:
			h.t.Errorf("key %s is a %s, which this test cannot read", key, kind)
		}
		if err != nil && !errors.Is(err, redis.Nil) {
			h.t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s %v\n", key, value)
	}
	if err := keys.Err(); err != nil {
		h.t.Fatal(err)
	}
	return text.String()
}
