package handlers

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"consultd/states"
)

// MaxSaid is how many bytes a message of the daemon may have: PubNub takes 32 KiB with the overhead of encryption.
const MaxSaid = 30 << 10

// timestampFormat is RFC 3339 with milliseconds, as the apps' own Date.toISOString writes it.
const timestampFormat = "2006-01-02T15:04:05.000Z07:00"

// Encode turns what a decision wants said into messages, in the order of its effects, for each sink that gets any. An
// effect that goes to both brokers has one form: the bytes are the same. The error means that the decision names somebody
// who cannot be addressed or says more than fits; repeating does not help. In an escalation such an effect becomes a dead
// letter instead: one wrong name on a list must not keep the others from being paged.
func (c *Codec) Encode(_ *states.Rules, ev states.Event, d *states.Decision) (map[states.Sink][]states.Message, error) {
	out := make(map[states.Sink][]states.Message, 3)
	for i := range d.Effects {
		e := &d.Effects[i]
		m, sinks, err := c.encode(ev, d, e)
		switch {
		case err != nil && e.Escalation != nil:
			m, sinks = deadEffect(e, err), []states.Sink{states.SinkNATS}
		case err != nil:
			return nil, fmt.Errorf("encode effect %s (%s): %w", e.ID, e.Kind, err)
		}
		for _, sink := range sinks {
			out[sink] = append(out[sink], m)
		}
	}
	if len(d.Audit) > 0 {
		out[states.SinkAudit] = []states.Message{c.encodeAudit(d.Audit)}
	}
	return out, nil
}

func (c *Codec) encode(ev states.Event, d *states.Decision, e *states.Effect) (states.Message, []states.Sink, error) {
	m := states.Message{ID: e.ID}
	sinks := []states.Sink{states.SinkNATS, states.SinkPubNub}
	o := object{fields: e.Fields, b: make([]byte, 0, 768)}
	if err := addressee(e); err != nil {
		return m, nil, err
	}
	switch e.Kind {
	case states.EffectNotify:
		m.Channel = Notification(e.To)
		if err := c.notify(&o, e); err != nil {
			return m, nil, err
		}
		m.Escalation = pageOf(e)
	case states.EffectPage:
		m.Channel, sinks = Page(e.Transport, e.To), sinks[:1]
		if err := c.page(&o, e); err != nil {
			return m, nil, err
		}
		m.Escalation = pageOf(e)
	case states.EffectQueue:
		m.Channel = Queue(e.To)
		if err := queue(&o, e); err != nil {
			return m, nil, err
		}
	case states.EffectConsultation:
		if e.Visit == nil {
			return m, nil, errNoVisit
		}
		m.Channel = Consultation(e.Visit.Provider, e.Visit.Patient)
		o.head(e, "action", e.Type)
		o.about(e)
		o.pick("from", string(d.From))
		o.pick("state", string(e.Visit.State))
		o.pick("cause", string(ev.Kind))
	case states.EffectEmergency:
		if e.Escalation == nil {
			return m, nil, errNoEscalation
		}
		m.Channel = Emergency(e.To)
		o.head(e, "action", e.Type)
		o.about(e)
		o.pick("status", string(e.Escalation.State))
	case states.EffectRaise:
		m.Channel, sinks = markLog+Emergency(e.To), sinks[:1]
		raise(&o, ev, e)
	case states.EffectAskOnCall:
		if e.Escalation == nil {
			return m, nil, errNoEscalation
		}
		m.Channel, sinks = Emergency(e.To), []states.Sink{states.SinkAsk}
		o.text("escalationId", e.Escalation.ID)
		o.text("departmentId", e.To)
		o.text("severity", string(e.Escalation.Severity))
		o.fields = nil
	default:
		return m, nil, errors.New("unknown kind of effect")
	}
	var err error
	m.Payload, err = o.close()
	return m, sinks, err
}

var (
	errNoVisit      = errors.New("the effect has no visit")
	errNoEscalation = errors.New("the effect has no escalation")
)

// addressee makes sure that the name of the channel means what it should.
func addressee(e *states.Effect) error {
	names := []string{e.To}
	switch {
	case e.Kind == states.EffectConsultation && e.Visit != nil:
		names = []string{e.Visit.Provider, e.Visit.Patient}
	case e.Kind == states.EffectPage:
		names = []string{e.To, e.Transport}
	}
	for _, name := range names {
		if !Identifier(name) {
			return fmt.Errorf("addressee: %w", ErrBadIdentifier)
		}
	}
	return nil
}

func (c *Codec) notify(o *object, e *states.Effect) error {
	t, known := c.texts[e.Type]
	if !known {
		return fmt.Errorf("notification type %q has no text", e.Type)
	}
	o.head(e, "type", e.Type)
	o.text("title", t.titleOf(e.Type, severity(e)))
	o.text("body", t.body)
	o.text("priority", priority(e))
	o.about(e)
	o.rest()
	urgency := pushOrdinary
	if e.Priority == states.NoticeCritical {
		urgency = pushCritical
	}
	o.raw(c.push[e.Type][urgency])
	return nil
}

func (c *Codec) page(o *object, e *states.Effect) error {
	if e.Escalation == nil {
		return errNoEscalation
	}
	kind := states.NoticeEscalation
	t := c.texts[kind]
	o.head(e, "type", kind)
	o.text("title", t.titleOf(kind, severity(e)))
	o.text("body", t.body)
	o.text("priority", priority(e))
	o.about(e)
	return nil
}

// pageOf is the escalation that a page waits for an answer to: once it is answered, the page need not be sent any more.
// What is said about an escalation that was answered before is no such page.
func pageOf(e *states.Effect) string {
	if e.Escalation == nil || e.Type != states.NoticeEscalation || e.Escalation.Answered() {
		return ""
	}
	return states.EscalationRecord(e.Escalation.Department, e.Escalation.ID).ID
}

func severity(e *states.Effect) states.Severity {
	if e.Escalation == nil {
		return ""
	}
	return e.Escalation.Severity
}

func priority(e *states.Effect) string {
	if e.Priority == "" {
		return states.NoticeNormal
	}
	return e.Priority
}

func queue(o *object, e *states.Effect) error {
	v := e.Visit
	if v == nil {
		return errNoVisit
	}
	o.head(e, "action", e.Type)
	switch e.Type {
	case states.ActionPatientAdded:
		o.entry(v)
	case states.ActionPatientRemoved:
		o.text("queueEntryId", v.Appointment)
		o.pick("reason", string(v.State))
	default:
		o.text("queueEntryId", v.Appointment)
		o.pick("newStatus", queueStatus(v.State))
		o.text("updatedBy", e.Actor.ID)
	}
	return nil
}

// queueStatus is a visit's state in the words of a queue.
func queueStatus(s states.State) string {
	switch s {
	case states.VisitConnecting, states.VisitInProgress, states.VisitOnHold, states.VisitWrappingUp:
		return "in-consultation"
	default:
		return string(s)
	}
}

// raise is an escalation on its way back into the log. The actor is beside the body, because in the log it is in the headers.
func raise(o *object, ev states.Event, e *states.Effect) {
	r := escalationRaised{at: e.At, appointment: ev.Appointment, consultation: ev.Consultation, by: e.Actor.ID}
	if e.Visit != nil {
		r.appointment, r.consultation = e.Visit.Appointment, Consultation(e.Visit.Provider, e.Visit.Patient)
	}
	r.id, _ = e.Fields["escalationId"].(string)
	r.severity, _ = e.Fields["severity"].(string)
	r.reasonCode, _ = e.Fields["reasonCode"].(string)
	o.fields = nil
	o.text("actor", e.Actor.ID)
	o.text("role", headerRole(e.Actor.Role))
	o.key("body")
	o.b = append(o.b, r.message()...)
}

// escalationRaised is an EMERGENCY_ESCALATION that the daemon says to itself.
type escalationRaised struct {
	id, appointment, consultation, by, severity, reasonCode string
	at                                                      time.Time
}

func (r escalationRaised) message() []byte {
	if r.severity == "" {
		r.severity = string(states.SeverityCritical)
	}
	o := object{b: make([]byte, 0, 384)}
	o.text("id", r.id)
	o.text("action", states.ActionRaise)
	if !r.at.IsZero() {
		o.time("timestamp", r.at)
	}
	o.text("appointmentId", r.appointment)
	o.text("consultationId", r.consultation)
	o.text("escalatedBy", r.by)
	o.text("severity", r.severity)
	o.text("reasonCode", r.reasonCode)
	o.text("status", "active")
	return append(o.b, '}')
}

// headerRole is an actor's role as a header says it. It must say something also for somebody without a role.
func headerRole(r states.Role) string {
	if !outsideRole(r) {
		return "unknown"
	}
	return string(r)
}

// Raise is the short way of an EMERGENCY_REQUESTED that came over PubNub: the log entry that the decision about it will
// lead to as well, with the same ids, so that whichever comes second is a repeat. visit says which visit the request is
// about ("" when none is known) and which department is to be paged. The error is a *Refused.
func (c *Codec) Raise(
	channel, publisher, timetoken string, plain []byte, visit func(states.Event) (appointment, department string),
) (states.Entry, error) {
	ev, refused := c.requested(channel, publisher, timetoken, plain)
	if refused != nil {
		return states.Entry{}, refused
	}
	appointment, department := visit(ev)
	if appointment == "" {
		appointment = ev.Appointment
	}
	if err := one("department", department); err != nil {
		return states.Entry{}, refuse(CodeBadIdentifier, err.Error())
	}
	id := states.EscalationID(ev.ID)
	data := escalationRaised{
		id: id, at: ev.At, appointment: appointment, consultation: ev.Consultation, by: ev.Actor.ID,
		severity: string(ev.Severity), reasonCode: ev.ReasonCode,
	}.message()
	return states.Entry{
		Lane: states.LaneEmergency, Subject: InSubject(Emergency(department)), Data: data,
		Header: map[string]string{
			HeaderMsgID: "raise." + id, HeaderSource: string(states.SourceConsultd),
			HeaderActor: ev.Actor.ID, HeaderRole: headerRole(ev.Actor.Role),
		},
	}, nil
}

// encodeAudit writes all audit entries of a decision as one message. It has no limit of size: it goes to NATS only, and an
// audit entry is never left out.
func (c *Codec) encodeAudit(entries []states.AuditEntry) states.Message {
	payload := append(make([]byte, 0, 640*len(entries)), `{"entries":[`...)
	for i := range entries {
		if i > 0 {
			payload = append(payload, ',')
		}
		payload = entries[i].AppendJSON(payload)
	}
	payload = append(payload, `]}`...)
	return states.Message{ID: entries[0].ID, Channel: Audit(c.organization), Payload: payload}
}

// object writes a JSON object key by key, in the order of the calls. Reflection over a map of fields would cost more than
// the decision, and its structs could not mix fixed and further fields.
type object struct {
	b      []byte
	keys   [24]string
	count  int
	fields map[string]any
	picked []string // the fields that are written or left out already
	err    error
}

// key starts a member. A key that is there already is an error: the reader would see only one of the two.
func (o *object) key(key string) {
	for _, used := range o.keys[:o.count] {
		if used == key {
			o.fail(fmt.Errorf("field %s is there twice", key))
		}
	}
	switch {
	case key == "message" || key == "file" || strings.HasPrefix(key, "pn_"):
		// PubNub's SDKs take a message with the first two for a file event, and PubNub itself reads the others.
		o.fail(fmt.Errorf("field %s is reserved", key))
	case o.count == len(o.keys):
		o.fail(errors.New("too many fields"))
		return
	}
	o.keys[o.count] = key
	o.count++
	if len(o.b) == 0 {
		o.b = append(o.b, '{')
	} else {
		o.b = append(o.b, ',')
	}
	o.b = append(appendString(o.b, key), ':')
}

func (o *object) fail(err error) {
	if o.err == nil {
		o.err = err
	}
}

// text writes a text; an empty one is left out.
func (o *object) text(key, value string) {
	if value != "" {
		o.key(key)
		o.b = appendString(o.b, value)
	}
}

func (o *object) time(key string, at time.Time) {
	o.key(key)
	o.b = appendTime(o.b, at)
}

// raw writes ready-made members.
func (o *object) raw(members []byte) {
	o.b = append(append(o.b, ','), members...)
}

// head writes what every message begins with.
func (o *object) head(e *states.Effect, what, kind string) {
	o.text("id", e.ID)
	o.text(what, kind)
	o.time("timestamp", e.At)
}

// about writes the visit or the escalation that the message is about.
func (o *object) about(e *states.Effect) {
	switch {
	case e.Visit != nil:
		o.text("appointmentId", e.Visit.Appointment)
		o.text("consultationId", Consultation(e.Visit.Provider, e.Visit.Patient))
	case e.Escalation != nil:
		o.text("escalationId", e.Escalation.ID)
		o.text("departmentId", e.Escalation.Department)
		o.text("appointmentId", e.Escalation.Appointment)
		o.text("consultationId", e.Escalation.Consultation)
		o.pick("severity", string(e.Escalation.Severity))
	}
}

// entry writes the new entry of a queue.
func (o *object) entry(v *states.Visit) {
	inner := object{b: make([]byte, 0, 256)}
	inner.text("id", v.Appointment)
	inner.text("patientId", v.Patient)
	inner.text("appointmentId", v.Appointment)
	inner.text("providerId", v.Provider)
	inner.text("departmentId", v.Department)
	inner.text("status", queueStatus(v.State))
	inner.text("priority", string(v.Priority))
	inner.time("checkInTime", v.CheckedInAt)
	o.key("entry")
	o.b = append(append(o.b, inner.b...), '}')
}

// pick writes a further field in a fixed place, or what stands for it when the effect does not have it.
func (o *object) pick(key, otherwise string) {
	value, given := o.fields[key]
	if given {
		o.picked = append(o.picked, key)
	}
	switch {
	case !given:
		o.text(key, otherwise)
	case value != "":
		o.key(key)
		o.value(key, value)
	}
}

// rest writes the further fields that are not written yet, by name.
func (o *object) rest() {
	keys := make([]string, 0, len(o.fields))
	for key := range o.fields {
		if !slices.Contains(o.picked, key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		o.pick(key, "")
	}
}

// value writes a code, number or instant. Anything else is refused: it could carry what must not leave.
func (o *object) value(key string, value any) {
	switch v := value.(type) {
	case string:
		o.b = appendString(o.b, v)
	case states.State:
		o.b = appendString(o.b, string(v))
	case states.Severity:
		o.b = appendString(o.b, string(v))
	case states.Priority:
		o.b = appendString(o.b, string(v))
	case states.Kind:
		o.b = appendString(o.b, string(v))
	case int:
		o.b = strconv.AppendInt(o.b, int64(v), 10)
	case int64:
		o.b = strconv.AppendInt(o.b, v, 10)
	case bool:
		o.b = strconv.AppendBool(o.b, v)
	case time.Time:
		o.b = appendTime(o.b, v)
	default:
		o.fail(fmt.Errorf("field %s has a type that is not sent: %T", key, value))
		o.b = append(o.b, "null"...)
	}
}

// close ends the object.
func (o *object) close() ([]byte, error) {
	o.rest()
	o.b = append(o.b, '}')
	if o.err == nil && len(o.b) > MaxSaid {
		o.err = fmt.Errorf("message has %d bytes, more than %d", len(o.b), MaxSaid)
	}
	if o.err != nil {
		return nil, o.err
	}
	return o.b, nil
}

func appendTime(b []byte, at time.Time) []byte {
	b = append(b, '"')
	b = at.UTC().AppendFormat(b, timestampFormat)
	return append(b, '"')
}

// appendString quotes a text. Identifiers and codes are plain; whatever is not goes through encoding/json.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, err := json.Marshal(s)
			if err != nil { // a text always has a JSON form
				quoted = []byte(`""`)
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
