package store

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"consultd/states"
	"consultd/test/redis"
)

const reason = "chest pain since this morning"

func escalationCommit(claim states.Claim, seq uint64) *states.Commit {
	return &states.Commit{
		Claim: claim, Seq: seq, Event: eventID("esc"),
		Decision: &states.Decision{Record: states.Record{
			ID: states.RecordID{Kind: states.KindEscalation, ID: "esc-1"}, Version: 1,
			Escalation: &states.Escalation{
				ID: "esc-1", Department: "cardiology", RaisedBy: states.Actor{ID: "nurse-5", Role: states.RoleNurse},
				Severity: states.SeverityCritical, Reason: states.NewPHI(reason), State: "paging", Paged: []string{"oncall-9"},
			},
		}},
	}
}

func TestRecordKeepsTheReasonOfAnEscalation(t *testing.T) {
	_, s, claim := started(t, redis.Options{})
	c := escalationCommit(claim, 1)
	mustCommit(t, s, c, states.Committed, 1)
	got := mustLoad(t, s, c.Decision.Record.ID)
	if !reflect.DeepEqual(got, c.Decision.Record) {
		t.Errorf("loaded %+v", got)
	}
	if got.Escalation.Reason.Reveal() != reason {
		t.Error("the reason is another")
	}
}

func TestLoadAnswersInOrderAndForWhatDoesNotExist(t *testing.T) {
	_, s, claim := started(t, redis.Options{})
	mustCommit(t, s, visitCommit(claim, 1, "apt-1", 1), states.Committed, 1)
	mustCommit(t, s, visitCommit(claim, 2, "apt-2", 1), states.Committed, 2)
	got, err := s.Load(t.Context(), visitID("apt-2"), visitID("apt-3"), visitID("apt-1"))
	if err != nil {
		t.Fatal(err)
	}
	if got[0].Visit.Appointment != "apt-2" || got[2].Visit.Appointment != "apt-1" {
		t.Errorf("loaded %+v", got)
	}
	if !reflect.DeepEqual(got[1], states.Record{ID: visitID("apt-3")}) {
		t.Errorf("what does not exist is %+v", got[1])
	}
	if none, err := s.Load(t.Context()); len(none) != 0 || err != nil {
		t.Errorf("nothing asked, answered %v, %v", none, err)
	}
	if pair, err := s.Pair(t.Context(), "dr-smith", "nobody"); pair != "" || err != nil {
		t.Errorf("no pair is %q, %v", pair, err)
	}
}

// TestSealedDoesNotOpenElsewhere moves what is stored, as somebody with access to Redis but not to the keys might.
func TestSealedDoesNotOpenElsewhere(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	ctx := t.Context()
	r := raw(t, server.Addr())
	mustCommit(t, s, visitCommit(claim, 1, "apt-1", 1), states.Committed, 1)
	mustCommit(t, s, visitCommit(claim, 2, "apt-2", 1), states.Committed, 2)
	one, two := s.keys.record(visitID("apt-1")), s.keys.record(visitID("apt-2"))
	oldOne := r.HGet(ctx, one, "r").Val()
	mustCommit(t, s, visitCommit(claim, 3, "apt-1", 2), states.Committed, 3)
	newOne := r.HGet(ctx, one, "r").Val()

	corrupt := func(how string) {
		t.Helper()
		_, err := s.Load(ctx, visitID("apt-1"))
		var c *Corrupt
		if !errors.As(err, &c) || c.Kind != "visit record" {
			t.Errorf("%s: err = %v", how, err)
		}
		if err != nil && (strings.Contains(err.Error(), "apt-1") || strings.Contains(err.Error(), "patient")) {
			t.Errorf("%s: the error tells content: %v", how, err)
		}
	}
	r.HSet(ctx, one, "r", r.HGet(ctx, two, "r").Val())
	corrupt("another visit's record")
	r.HSet(ctx, one, "r", oldOne)
	corrupt("an older record")
	r.HSet(ctx, one, "r", newOne, "v", 1)
	corrupt("an older version number")
	r.HSet(ctx, one, "r", newOne[:len(newOne)-1], "v", 2)
	corrupt("a shortened record")
	r.HSet(ctx, one, "r", newOne, "v", "two")
	corrupt("no version number")
	r.HDel(ctx, one, "r")
	corrupt("no record")
	r.HSet(ctx, one, "r", newOne, "v", 2)
	if got := mustLoad(t, s, visitID("apt-1")); got.Version != 2 {
		t.Errorf("put right, it is %+v", got)
	}

	stream := s.keys.outbox(normal3, states.SinkNATS)
	entries := r.XRange(ctx, stream, "-", "+").Val()
	r.XDel(ctx, stream, entries[0].ID, entries[1].ID, entries[2].ID)
	for i, move := range []struct{ stream, s, p string }{
		{stream, "2", entries[0].Values["p"].(string)},
		{s.keys.outbox(normal3, states.SinkPubNub), "1", entries[0].Values["p"].(string)},
		{s.keys.outbox(normal3, states.SinkAudit), "1", "clear"},
		{s.keys.outbox(normal3, states.SinkAsk), "1", ""},
	} {
		r.XAdd(ctx, newEntry(move.stream, move.s, move.p))
		sink := states.Sink(move.stream[strings.LastIndex(move.stream, ":")+1:])
		_, err := s.Pending(ctx, normal3, sink, 0, 10)
		var c *Corrupt
		if !errors.As(err, &c) || c.Kind != "outbox entry" {
			t.Errorf("move %d: err = %v", i, err)
		}
	}
}

func TestSealedIsClosedWithoutTheKey(t *testing.T) {
	server, s, claim := started(t, redis.Options{})
	mustCommit(t, s, visitCommit(claim, 1, "apt-1", 1), states.Committed, 1)
	other := openAt(t, server.Addr())
	_, err := other.Load(t.Context(), visitID("apt-1"))
	var c *Corrupt
	if !errors.As(err, &c) {
		t.Errorf("err = %v", err)
	}
}

func TestSealerOpensWithEveryKeyOfTheKeyset(t *testing.T) {
	old, err := GenerateKeyset()
	if err != nil {
		t.Fatal(err)
	}
	before, err := NewSealer(old)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := before.Seal([]byte("text"), []byte("place"))
	if err != nil {
		t.Fatal(err)
	}
	after, err := NewSealer(rotated(t, old))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := after.Open(sealed, []byte("place")); string(plain) != "text" || err != nil {
		t.Errorf("after rotation: %q, %v", plain, err)
	}
	sealed, err = after.Seal([]byte("text"), []byte("place"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := before.Open(sealed, []byte("place")); err == nil {
		t.Error("the new key does not seal")
	}
}

func rotated(t *testing.T, old []byte) []byte {
	t.Helper()
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(old)))
	if err != nil {
		t.Fatal(err)
	}
	manager := keyset.NewManagerFromHandle(handle)
	id, err := manager.Add(aead.AES256GCMKeyTemplate())
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.SetPrimary(id); err != nil {
		t.Fatal(err)
	}
	if handle, err = manager.Handle(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&out)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestNewSealerRefusesWithoutQuotingTheKeyset(t *testing.T) {
	for _, text := range []string{"", "hunter2-hunter2", `{"primaryKeyId":"hunter2"}`, `{"key":[{"keyData":"hunter2"}]}`} {
		_, err := NewSealer([]byte(text))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: err = %v", text, err)
		}
	}
}

// TestRedisHoldsNoPatientData reads everything that Redis writes to disk, commands and data, for what must not be there.
func TestRedisHoldsNoPatientData(t *testing.T) {
	server, s, claim := started(t, redis.Options{AppendOnly: true, AppendFsync: "always", Args: []string{"--rdbcompression", "no", "--aof-use-rdb-preamble", "no"}})
	ctx := t.Context()
	mustCommit(t, s, fullCommit(claim, 1, "apt-1"), states.Committed, 1)
	mustCommit(t, s, escalationCommit(claim, 2), states.Committed, 2)
	if _, err := s.Pair(ctx, "dr-smith", "patient-4711"); err != nil {
		t.Fatal(err)
	}
	if err := raw(t, server.Addr()).Save(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	var all []byte
	err := fs.WalkDir(os.DirFS(server.Dir()), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(os.DirFS(server.Dir()), path)
		all = append(all, content...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, allowed := range []string{"apt-1", "dr-smith", "cardiology", "esc-1"} {
		if !bytes.Contains(all, []byte(allowed)) {
			t.Errorf("%q is not in the files; the test looks in the wrong place", allowed)
		}
	}
	for _, secret := range []string{"patient-4711", "4711", reason, "chest", "cons-777", "nurse-5", "oncall-9", "PATIENT_READY", "notification", "waiting", "critical"} {
		if bytes.Contains(all, []byte(secret)) {
			t.Errorf("%q is stored in clear", secret)
		}
	}
}
