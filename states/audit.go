package states

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// The event types of audit entries.
const (
	AuditCheckIn         = "CHECK_IN"
	AuditSessionStart    = "CONSULTATION_SESSION_START"
	AuditSessionEnd      = "CONSULTATION_SESSION_END"
	AuditStateChanged    = "VISIT_STATE_CHANGED"
	AuditEventAccepted   = "EVENT_ACCEPTED" // accepted without a change of state
	AuditEventRejected   = "EVENT_REJECTED"
	AuditEmergencyAsked  = "EMERGENCY_REQUESTED"
	AuditTriggered       = "EMERGENCY_ESCALATION_TRIGGERED"
	AuditAcknowledged    = "ESCALATION_ACKNOWLEDGED"
	AuditEscalationMoved = "ESCALATION_STATE_CHANGED"
	AuditNotification    = "NOTIFICATION_SENT"
	AuditPaged           = "ESCALATION_PAGED"
	AuditPageNobody      = "PAGE_NOBODY" // a round of pages had nobody to go to
)

// The severities and outcomes of audit entries.
const (
	AuditInfo     = "info"
	AuditWarning  = "warning"
	AuditCritical = "critical"

	AuditSuccess = "success"
	AuditRefused = "refused"
)

// Sum is the hash of an entry: lower-case hex SHA-256 of the entry as encoding/json writes it, with Hash empty. That is
// compact JSON with the fields in the order of the struct, the keys of details sorted, times as RFC 3339 with as many digits
// of the second as they have, and <, >, & as \u003c, \u003e, \u0026. Prev is a field, so a hash covers all entries before it.
func (e *AuditEntry) Sum() string {
	var room [1024]byte
	sum := sha256.Sum256(e.append(room[:0], ""))
	var out [2 * sha256.Size]byte
	hex.Encode(out[:], sum[:])
	return string(out[:])
}

// append writes the entry with the given hash, byte for byte as encoding/json would (a test compares): an entry is summed
// on every decision, several times, and reflection would cost more than the rest of the decision.
func (e *AuditEntry) append(b []byte, hash string) []byte {
	b = append(b, `{"id":`...)
	b = appendString(b, e.ID)
	b = append(b, `,"timestamp":"`...)
	b = e.Timestamp.AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","eventType":`...)
	b = appendString(b, e.EventType)
	b = append(b, `,"severity":`...)
	b = appendString(b, e.Severity)
	b = append(b, `,"organizationId":`...)
	b = appendString(b, e.Organization)
	b = append(b, `,"actor":{"userId":`...)
	b = appendString(b, e.Actor.ID)
	b = append(b, `,"role":`...)
	b = appendString(b, string(e.Actor.Role))
	b = append(b, `},"resource":{"type":`...)
	b = appendString(b, e.Resource.Type)
	b = append(b, `,"id":`...)
	b = appendString(b, e.Resource.ID)
	if e.Resource.Channel != "" {
		b = append(b, `,"channel":`...)
		b = appendString(b, e.Resource.Channel)
	}
	b = append(b, `},"action":`...)
	b = appendString(b, e.Action)
	b = append(b, `,"outcome":`...)
	b = appendString(b, e.Outcome)
	if len(e.Details) > 0 {
		var room [8]string
		keys := room[:0]
		for k := range e.Details {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		b = append(b, `,"details":`...)
		for i, k := range keys {
			if i == 0 {
				b = append(b, '{')
			} else {
				b = append(b, ',')
			}
			b = appendString(b, k)
			b = append(b, ':')
			b = appendString(b, e.Details[k])
		}
		b = append(b, '}')
	}
	b = append(b, `,"chain":`...)
	b = appendString(b, e.Chain)
	b = append(b, `,"seq":`...)
	b = strconv.AppendInt(b, e.Seq, 10)
	b = append(b, `,"prev":`...)
	b = appendString(b, e.Prev)
	b = append(b, `,"hash":`...)
	return append(appendString(b, hash), '}')
}

// appendString quotes a string. Identifiers and codes are plain; whatever is not goes through encoding/json.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, err := json.Marshal(s)
			if err != nil { // a string always has a JSON form
				return strconv.AppendQuote(b, s)
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// AppendJSON appends the entry as encoding/json writes it, without its price: every decision has entries to write.
func (e *AuditEntry) AppendJSON(b []byte) []byte { return e.append(b, e.Hash) }

// VerifyChain follows a chain of audit entries from a known head (the zero Chain for the beginning) and returns the new
// head. The error names the first entry that was changed, removed, inserted or moved.
func VerifyChain(head Chain, entries []AuditEntry) (Chain, error) {
	for i := range entries {
		e := &entries[i]
		switch {
		case i > 0 && e.Chain != entries[0].Chain:
			return head, fmt.Errorf("verify audit chain: entry %s belongs to chain %s, not to %s", e.ID, e.Chain, entries[0].Chain)
		case e.Seq != head.Seq+1:
			return head, fmt.Errorf("verify audit chain: entry %s of %s has number %d where %d is due", e.ID, e.Chain, e.Seq, head.Seq+1)
		case e.Prev != head.Hash:
			return head, fmt.Errorf("verify audit chain: entry %s of %s does not follow the entry before it", e.ID, e.Chain)
		case e.Hash != e.Sum():
			return head, fmt.Errorf("verify audit chain: entry %s of %s was changed: its hash does not match", e.ID, e.Chain)
		}
		head = Chain{Name: e.Chain, Seq: e.Seq, Hash: e.Hash}
	}
	return head, nil
}
