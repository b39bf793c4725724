package handlers

import (
	"errors"
	"fmt"
	"strings"

	"consultd/states"
)

// MaxIdentifier is the length of the longest identifier. PubNub refuses channel names of more than 92 characters, and the
// longest name that two identifiers are part of must stay below it.
const MaxIdentifier = 32

// Subjects are a prefix and a channel name, or one of the daemon's own below log and urgent.
const (
	prefixIn     = "consult.in."
	prefixOut    = "consult.out."
	prefixLog    = "consult.log."
	prefixUrgent = "consult.urgent."
	prefixDead   = "consult.dead."
	prefixAudit  = "consult.audit."

	// unreadable stands in for channel names that cannot be part of a subject: such messages are logged and then refused.
	unreadable = prefixIn + "unreadable"
)

// Markers in front of Message.Channel that send a message elsewhere than to consult.out: see MessageSubject.
const (
	markLog  = ">"
	markDead = "!"
)

// Class is what a channel is for.
type Class string

// The classes, each with the form of its names.
const (
	ClassWaitingRoom  Class = "waiting-room" // waiting-room.{provider}
	ClassConsultation Class = "consultation" // consultation.{provider}.{patient}
	ClassVideo        Class = "video"        // consultation.{provider}.{patient}.video
	ClassFiles        Class = "files"        // consultation.{provider}.{patient}.files
	ClassEmergency    Class = "emergency"    // emergency.{department}
	ClassQueue        Class = "queue"        // queue.{department}
	ClassNotification Class = "notification" // notification.{user}
	ClassPresence     Class = "presence"     // presence.providers.{department}
	ClassAudit        Class = "audit"        // audit.{organization}
	ClassPage         Class = "page"         // page.{transport}.{user}, on NATS only
	presenceProviders       = "providers"    // the only second word of a presence channel
	presenceSuffix          = "-pnpres"      // PubNub's own suffix for the presence of a channel
)

// Channel is a channel name taken apart. Fields that its class does not have are empty.
type Channel struct {
	Class        Class
	Provider     string
	Patient      string
	Department   string
	User         string
	Organization string
	Transport    string
}

// ErrUnknownChannel says that a name has none of the known forms.
var ErrUnknownChannel = errors.New("unknown channel")

// ErrBadIdentifier says that a name has a known form but an identifier in it is not one.
var ErrBadIdentifier = errors.New("bad identifier")

// Identifier says whether s may be the id of a person, department, appointment or escalation: 1 to 32 characters of
// A-Z a-z 0-9 _ -, and not ending like the name of a PubNub presence channel.
func Identifier(s string) bool {
	if len(s) == 0 || len(s) > MaxIdentifier || strings.HasSuffix(s, presenceSuffix) {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_', c >= 'A' && c <= 'Z':
		default:
			return false
		}
	}
	return true
}

// ParseChannel takes a channel name apart. The error is ErrUnknownChannel, or ErrBadIdentifier with what is wrong; it never
// quotes the name. Identifiers have no dots, so no identifier is ever guessed out of a name with too many of them.
func ParseChannel(name string) (Channel, error) {
	c, err := parse(name)
	if err != nil {
		return Channel{}, err
	}
	return c, nil
}

func parse(name string) (Channel, error) {
	first, rest, _ := strings.Cut(name, ".")
	switch Class(first) {
	case ClassWaitingRoom:
		return Channel{Class: ClassWaitingRoom, Provider: rest}, one("provider", rest)
	case ClassEmergency:
		return Channel{Class: ClassEmergency, Department: rest}, one("department", rest)
	case ClassQueue:
		return Channel{Class: ClassQueue, Department: rest}, one("department", rest)
	case ClassNotification:
		return Channel{Class: ClassNotification, User: rest}, one("user", rest)
	case ClassAudit:
		return Channel{Class: ClassAudit, Organization: rest}, one("organization", rest)
	case ClassPresence:
		second, department, _ := strings.Cut(rest, ".")
		if second != presenceProviders {
			return Channel{}, ErrUnknownChannel
		}
		return Channel{Class: ClassPresence, Department: department}, one("department", department)
	case ClassPage:
		transport, user, _ := strings.Cut(rest, ".")
		return Channel{Class: ClassPage, Transport: transport, User: user}, both(one("transport", transport), one("user", user))
	case ClassConsultation:
		return parseConsultation(rest)
	default:
		return Channel{}, ErrUnknownChannel
	}
}

func parseConsultation(rest string) (Channel, error) {
	provider, rest, _ := strings.Cut(rest, ".")
	patient, tail, more := strings.Cut(rest, ".")
	c := Channel{Class: ClassConsultation, Provider: provider, Patient: patient}
	if err := both(one("provider", provider), one("patient", patient)); err != nil {
		return c, err
	}
	switch {
	case !more:
	case tail == string(ClassVideo):
		c.Class = ClassVideo
	case tail == string(ClassFiles):
		c.Class = ClassFiles
	default:
		return c, fmt.Errorf("%w: more than provider and patient; identifiers have no dots", ErrBadIdentifier)
	}
	return c, nil
}

// one checks the identifier that is to be a person's, department's, ... (what).
func one(what, id string) error {
	switch {
	case Identifier(id):
		return nil
	case id == "":
		return fmt.Errorf("%w: %s is missing", ErrBadIdentifier, what)
	case strings.Contains(id, "."):
		return fmt.Errorf("%w: %s has a dot; identifiers have none", ErrBadIdentifier, what)
	default:
		return fmt.Errorf("%w: %s must be 1 to 32 characters of A-Z a-z 0-9 _ - and not end in %s", ErrBadIdentifier, what, presenceSuffix)
	}
}

// both is the first of two errors.
func both(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// Name is the channel's name; ParseChannel(c.Name()) is c when the identifiers are good.
func (c Channel) Name() string {
	switch c.Class {
	case ClassWaitingRoom:
		return WaitingRoom(c.Provider)
	case ClassConsultation:
		return Consultation(c.Provider, c.Patient)
	case ClassVideo, ClassFiles:
		return Consultation(c.Provider, c.Patient) + "." + string(c.Class)
	case ClassEmergency:
		return Emergency(c.Department)
	case ClassQueue:
		return Queue(c.Department)
	case ClassNotification:
		return Notification(c.User)
	case ClassPresence:
		return Presence(c.Department)
	case ClassAudit:
		return Audit(c.Organization)
	case ClassPage:
		return Page(c.Transport, c.User)
	default:
		return ""
	}
}

// Inbound says whether the daemon acts on messages of this channel.
func (c Channel) Inbound() bool {
	return c.Class == ClassWaitingRoom || c.Class == ClassConsultation || c.Class == ClassEmergency
}

// Observed says whether the channel belongs to a consultation but is between its two people only.
func (c Channel) Observed() bool { return c.Class == ClassVideo || c.Class == ClassFiles }

// WaitingRoom is the channel of a provider's waiting room.
func WaitingRoom(provider string) string { return "waiting-room." + provider }

// Consultation is the channel of a provider and a patient, and the consultationId of their visits.
func Consultation(provider, patient string) string { return "consultation." + provider + "." + patient }

// Emergency is the channel of a department's escalations.
func Emergency(department string) string { return "emergency." + department }

// Queue is the channel of a department's queue.
func Queue(department string) string { return "queue." + department }

// Notification is the channel of one person.
func Notification(user string) string { return "notification." + user }

// Presence is the channel on which a department's providers are seen.
func Presence(department string) string { return "presence.providers." + department }

// Audit is the channel of an organization's audit projection.
func Audit(organization string) string { return "audit." + organization }

// Page is what a gateway (SMS, voice, pager) listens to for one person.
func Page(transport, user string) string { return "page." + transport + "." + user }

// InSubject is where a message that came on a PubNub channel enters the log. A name that no stream would accept is mapped
// to one subject that does, so that the message is logged and refused with a reason instead of being lost.
func InSubject(channel string) string {
	first, rest, dotted := strings.Cut(channel, ".")
	switch Class(first) {
	case ClassWaitingRoom, ClassConsultation, ClassEmergency, ClassQueue, ClassNotification, ClassPresence, ClassAudit:
		if dotted && tokens(rest) {
			return prefixIn + channel
		}
	}
	return unreadable
}

// tokens says whether s is one or more subject tokens without wildcards.
func tokens(s string) bool {
	dot := true // an empty token would follow
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if dot {
				return false
			}
			dot = true
		case c <= ' ', c >= 0x7f, c == '*', c == '>':
			return false
		default:
			dot = false
		}
	}
	return !dot && len(s) <= 200
}

// OutSubject is where what is said on a channel is said on NATS.
func OutSubject(channel string) string { return prefixOut + channel }

// Emergencies says whether a name, or a pattern that ends in a wildcard, is of emergency channels.
func Emergencies(pattern string) bool {
	first, _, _ := strings.Cut(pattern, ".")
	return Class(first) == ClassEmergency
}

// InFilter matches every message that came on channels of a class.
func InFilter(c Class) string { return prefixIn + string(c) + ".>" }

// InChannel is the channel name of a subject under consult.in.
func InChannel(subject string) (string, bool) { return strings.CutPrefix(subject, prefixIn) }

// OutChannel is the channel name of a subject under consult.out.
func OutChannel(subject string) (string, bool) { return strings.CutPrefix(subject, prefixOut) }

// MessageSubject is the subject on which a message of SinkNATS is published. A message that is an input of the daemon
// itself goes into a log: it needs the headers of LogHeaders, and its PubAck comes from that log.
func MessageSubject(channel string) (subject string, intoLog bool) {
	if name, ok := strings.CutPrefix(channel, markLog); ok {
		return InSubject(name), true
	}
	if code, ok := strings.CutPrefix(channel, markDead); ok {
		return prefixDead + code, false
	}
	return OutSubject(channel), false
}

// Subjects of the daemon's own.
const (
	AuditEntrySubject      = prefixAudit + "entry"
	AuditCheckpointSubject = prefixAudit + "checkpoint"

	rulesToken  = "rules"
	timerToken  = "timer."
	onCallToken = "oncall."
)

// RulesSubject is where a lane's rules enter its log.
func RulesSubject(lane states.Lane) string { return own(lane) + rulesToken }

// TimerSubject is where a due timer enters its lane's log; key is the timer's provider or department.
func TimerSubject(lane states.Lane, key string) string { return own(lane) + timerToken + key }

// OnCallSubject is where the on-call source's answer about a department enters the emergency log.
func OnCallSubject(department string) string { return prefixUrgent + onCallToken + department }

// DeadSubject is where dead letters of a refusal code go.
func DeadSubject(code string) string { return prefixDead + deadToken(code) }

func deadToken(code string) string { return strings.ToLower(code) }

func own(lane states.Lane) string {
	if lane == states.LaneEmergency {
		return prefixUrgent
	}
	return prefixLog
}

// LaneOf is the lane whose log holds a subject.
func LaneOf(subject string) states.Lane {
	if strings.HasPrefix(subject, prefixIn+"emergency.") || strings.HasPrefix(subject, prefixUrgent) {
		return states.LaneEmergency
	}
	return states.LaneNormal
}

// IsRules says whether a log entry holds rules, which every partition of the lane reads.
func IsRules(subject string) bool {
	return subject == prefixLog+rulesToken || subject == prefixUrgent+rulesToken
}

// Key is what an entry's partition is chosen by: the provider or the department. It is "" for rules, which concern every
// partition. For a subject that cannot be read the key is the whole subject and ok is false: such an entry is still decided
// (refused) by exactly one partition.
func Key(subject string) (key string, ok bool) {
	if name, in := InChannel(subject); in {
		if c, err := ParseChannel(name); err == nil {
			switch c.Class {
			case ClassWaitingRoom, ClassConsultation, ClassVideo, ClassFiles:
				return c.Provider, true
			case ClassEmergency:
				return c.Department, true
			}
		}
		return subject, false
	}
	if IsRules(subject) {
		return "", true
	}
	if key := ownKey(subject); Identifier(key) {
		return key, true
	}
	return subject, false
}

// ownKey is the last token of a timer's or on-call answer's subject.
func ownKey(subject string) string {
	rest, urgent := strings.CutPrefix(subject, prefixUrgent)
	if !urgent {
		var ok bool
		if rest, ok = strings.CutPrefix(subject, prefixLog); !ok {
			return ""
		}
	}
	if key, ok := strings.CutPrefix(rest, timerToken); ok {
		return key
	}
	if key, ok := strings.CutPrefix(rest, onCallToken); ok && urgent {
		return key
	}
	return ""
}

// LogSubjects are the subjects of the normal lane's log. It also takes what is said on channels that are none of its
// business, to refuse it with a reason.
func LogSubjects() []string {
	return []string{
		prefixIn + "waiting-room.>", prefixIn + "consultation.>", prefixIn + "queue.>", prefixIn + "notification.>",
		prefixIn + "presence.>", prefixIn + "audit.>", prefixIn + "*", prefixLog + ">",
	}
}

// EmergencySubjects are the subjects of the emergency lane's log.
func EmergencySubjects() []string { return []string{prefixIn + "emergency.>", prefixUrgent + ">"} }

// OutSubjects are the subjects of everything said that is no emergency.
func OutSubjects() []string {
	return []string{
		prefixOut + "notification.>", prefixOut + "queue.>", prefixOut + "consultation.>", prefixOut + "waiting-room.>", prefixOut + "audit.>",
	}
}

// PageSubjects are the subjects of pages and of what is said about emergencies.
func PageSubjects() []string { return []string{prefixOut + "page.>", prefixOut + "emergency.>"} }

// DeadSubjects are the subjects of dead letters.
func DeadSubjects() []string { return []string{prefixDead + ">"} }

// AuditSubjects are the subjects of the audit stream.
func AuditSubjects() []string { return []string{prefixAudit + ">"} }
