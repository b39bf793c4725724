package states_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"consultd/states"
)

// anyText is text as it may turn up in an entry, with everything that JSON treats specially.
func anyText() *rapid.Generator[string] {
	return rapid.OneOf(rapid.StringMatching(`[A-Za-z0-9_-]{0,32}`), rapid.String(),
		rapid.SampledFrom([]string{`"`, `\`, "<b>&", "\u2028\u2029", "\xff\xfe", "\x00\x1f\x7f", "é", "日本", "🚑", "\n\t"}))
}

// TestAnybodyCanRecomputeTheHash writes the documented form with encoding/json, as a third party would.
func TestAnybodyCanRecomputeTheHash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := func(what string) string { return anyText().Draw(t, what) }
		e := states.AuditEntry{
			ID: text("id"), Timestamp: time.Unix(0, rapid.Int64Range(0, 4e18).Draw(t, "time")).UTC(), EventType: text("type"),
			Severity: text("severity"), Organization: text("organization"), Actor: states.Actor{ID: text("user"), Role: states.Role(text("role"))},
			Resource: states.AuditResource{Type: text("resource"), ID: text("resource id"), Channel: text("channel")}, Action: text("action"),
			Outcome: text("outcome"), Chain: text("chain"), Seq: rapid.Int64().Draw(t, "seq"), Prev: text("prev"), Hash: text("hash"),
			Details: rapid.MapOfN(anyText(), anyText(), 0, 12).Draw(t, "details"),
		}
		bare := e
		bare.Hash = ""
		form, err := json.Marshal(bare)
		if err != nil {
			t.Fatal(err)
		}
		if whole, err := json.Marshal(e); err != nil || string(e.AppendJSON([]byte("x"))) != "x"+string(whole) {
			t.Fatalf("AppendJSON writes %s, encoding/json %s", e.AppendJSON(nil), whole)
		}
		sum := sha256.Sum256(form)
		if got, want := e.Sum(), hex.EncodeToString(sum[:]); got != want {
			t.Fatalf("the hash is %s, of %s it is %s", got, form, want)
		}
	})
}

// TestTheHashDoesNotChange pins the hash of one entry: a release that sums otherwise cannot verify what an older one wrote.
func TestTheHashDoesNotChange(t *testing.T) {
	s := aVisit(t).waiting()
	e := s.last.Audit[0]
	form, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"ev1.a0","timestamp":"2026-03-02T12:00:00Z","eventType":"CHECK_IN","severity":"info","organizationId":"clinic",` +
		`"actor":{"userId":"pat-1","role":"patient"},"resource":{"type":"visit","id":"appt-1","channel":"consultation.dr-lee.pat-1"},` +
		`"action":"PATIENT_CHECKED_IN","outcome":"success","details":{"source":"nats","to":"waiting"},"chain":"visit:appt-1@ev1","seq":1,"prev":"",` +
		`"hash":"HASH"}`
	if got := string(form); got != strings.Replace(want, "HASH", e.Hash, 1) {
		t.Fatalf("the entry is\n%s", got)
	}
	if e.Hash != "5b9c3bc6a6d6384bbbfda7b88cb0a66e8056dac7b4aa99a96d9d13ee5a4965b9" {
		t.Fatalf("its hash is %s", e.Hash)
	}
	if next := s.last.Audit[1]; next.EventType != states.AuditNotification || next.Action != "NOTIFY_PATIENT_READY" ||
		next.Details["recipient"] != provider || next.Details["effectId"] != "ev1.1" || next.Prev != e.Hash || next.Seq != 2 {
		t.Fatalf("the second entry is %+v", next)
	}
}

func TestAnAuditTrailTellsWhoSpokeForWhom(t *testing.T) {
	s := aVisit(t).inProgress().does(asBackend, states.ConsultationEnded, claiming(provider))
	if e := s.last.Audit[0]; e.Actor != asBackend || e.Details["onBehalfOf"] != provider || e.Details["from"] != "in-progress" || e.Details["to"] != "wrapping-up" {
		t.Fatalf("the entry is %+v", e)
	}
	s.does(asNurse, states.ConsultationEnded)
	if e := s.last.Audit[0]; e.EventType != states.AuditEventRejected || e.Outcome != states.AuditRefused || e.Details["code"] != "ROLE_NOT_ALLOWED" {
		t.Fatalf("the refusal's entry is %+v", e)
	}
}

// TestATamperedChainIsFound does to a good chain what somebody would do who has something to hide.
func TestATamperedChainIsFound(t *testing.T) {
	s := aVisit(t)
	var trail []states.AuditEntry
	keep := func(s *story) { trail = append(trail, s.last.Audit...) }
	keep(s.waiting())
	head := s.record.Chain
	keep(s.does(asProvider, states.ProviderJoined))
	keep(s.does(asStranger, states.PatientJoined))
	keep(s.does(asPatient, states.PatientJoined))

	if got, err := states.VerifyChain(states.Chain{}, trail); err != nil || got != s.record.Chain {
		t.Fatalf("the untouched chain: %v", err)
	}
	if got, err := states.VerifyChain(head, trail[2:]); err != nil || got != s.record.Chain {
		t.Fatalf("the chain from a known head on: %v", err)
	}
	for name, harm := range map[string]func([]states.AuditEntry) []states.AuditEntry{
		"changed": func(e []states.AuditEntry) []states.AuditEntry { e[1].Outcome = "refused"; return e },
		"changed details": func(e []states.AuditEntry) []states.AuditEntry {
			e[0].Details = map[string]string{"to": "waiting"}
			return e
		},
		"changed, summed again": func(e []states.AuditEntry) []states.AuditEntry {
			e[1].Actor.ID = "dr-no"
			e[1].Hash = e[1].Sum()
			return e
		},
		"removed":    func(e []states.AuditEntry) []states.AuditEntry { return append(e[:1], e[2:]...) },
		"first gone": func(e []states.AuditEntry) []states.AuditEntry { return e[1:] },
		"swapped":    func(e []states.AuditEntry) []states.AuditEntry { e[1], e[2] = e[2], e[1]; return e },
		"twice":      func(e []states.AuditEntry) []states.AuditEntry { return append(e[:2], e[1:]...) },
		"of another": func(e []states.AuditEntry) []states.AuditEntry {
			e[3].Chain = "visit:appt-2"
			e[3].Hash = e[3].Sum()
			return e
		},
	} {
		copied := append([]states.AuditEntry(nil), trail...)
		if _, err := states.VerifyChain(states.Chain{}, harm(copied)); err == nil {
			t.Errorf("%s: nobody notices", name)
		}
	}
}
