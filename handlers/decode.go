package handlers

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"consultd/states"
)

// Headers of log entries.
const (
	HeaderMsgID     = "Nats-Msg-Id"
	HeaderSource    = "Consult-Source"    // pubnub, consultd, operator; absent or nats: a NATS client
	HeaderActor     = "Consult-Actor"     // the authenticated sender
	HeaderRole      = "Consult-Role"      // what the sender is, as the backend authenticated it
	HeaderTimetoken = "Consult-Timetoken" // PubNub's time of the message, in units of 100 ns since 1970
)

// MaxMessage is how many bytes a message may have, after decryption.
const MaxMessage = 32 << 10

// maxPayload is how many bytes a message may have as published: encryption adds a header and base64.
const maxPayload = 2 * MaxMessage

// system is the actor of what the daemon itself brings about.
const system = "consultd"

// Decode turns an entry of the log into an event. Every error is a *Refused and means never.
func (c *Codec) Decode(e states.Entry) (states.Event, error) {
	ev, refused := c.decode(e)
	if refused != nil {
		return states.Event{}, refused
	}
	return ev, nil
}

func (c *Codec) decode(e states.Entry) (states.Event, *Refused) {
	name, in := InChannel(e.Subject)
	if !in {
		return c.decodeOwn(e)
	}
	ch, err := ParseChannel(name)
	switch {
	case errors.Is(err, ErrBadIdentifier):
		return states.Event{}, refuse(CodeBadIdentifier, "channel: "+err.Error())
	case err != nil:
		return states.Event{}, refuse(CodeUnknownChannel, "channel: has none of the known forms")
	case ch.Observed():
		return states.Event{}, &Refused{Code: CodeObservedOnly, Detail: "channel: is between patient and provider", Ignore: true}
	case !ch.Inbound():
		return states.Event{}, refuse(CodeNotInbound, "channel: "+string(ch.Class)+" channels are only spoken on by the daemon")
	}
	from, refused := sender(e.Header)
	if refused != nil {
		return states.Event{}, refused
	}
	body, encrypted, refused := c.open(e, from.source, name)
	if refused != nil {
		return states.Event{}, refused
	}
	return c.event(e, ch, from, body, encrypted)
}

// event makes the event of an opened message.
func (c *Codec) event(e states.Entry, ch Channel, from origin, body map[string]any, encrypted bool) (states.Event, *Refused) {
	message, refused := c.check(ch.Class, body)
	if refused != nil {
		return states.Event{}, refused
	}
	if from.source == states.SourceConsultd && message.kind != states.EmergencyEscalation {
		return states.Event{}, refuse(CodeBadSource, "header "+HeaderSource+": consultd itself only raises escalations")
	}
	ev := states.Event{Kind: message.kind, At: e.At.UTC(), Source: from.source, Actor: from.actor, Channel: ch.Name()}
	if from.source == states.SourcePubNub {
		if !from.at.IsZero() {
			ev.At = from.at
		}
		ev.Actor.Role = channelRole(ch, from.actor.ID, field(body, "patientId"))
	}
	id, refused := messageID(e, from, body)
	if refused != nil {
		return states.Event{}, refused
	}
	ev.ID = states.NewEventID(from.source, ev.Channel, from.actor.ID, id)
	if refused := fill(&ev, body, encrypted); refused != nil {
		return states.Event{}, refused
	}
	if refused := place(&ev, ch, body); refused != nil {
		return states.Event{}, refused
	}
	return ev, nil
}

// origin is who an entry comes from, by its headers.
type origin struct {
	source    states.Source
	actor     states.Actor
	at        time.Time // PubNub's time
	timetoken string
}

func sender(header map[string]string) (origin, *Refused) {
	o := origin{actor: states.Actor{ID: header[HeaderActor], Role: states.Role(header[HeaderRole])}}
	switch source := states.Source(header[HeaderSource]); source {
	case "", states.SourceNATS:
		o.source = states.SourceNATS
	case states.SourcePubNub:
		o.source = source
		if o.actor.ID == "" {
			return o, refuse(CodeActorMissing, "header "+HeaderActor+": is missing")
		}
		o.actor = states.Actor{ID: surrogate(o.actor.ID)}
		o.timetoken = header[HeaderTimetoken]
		if ticks, err := strconv.ParseInt(o.timetoken, 10, 64); err == nil && ticks > 0 && ticks < 1<<62/100 {
			o.at = time.Unix(0, ticks*100).UTC()
		}
		return o, nil
	case states.SourceConsultd:
		o.source = source
		if o.actor.ID == "" {
			return o, refuse(CodeActorMissing, "header "+HeaderActor+": must be whoever asked for help")
		}
		// The actor may well be somebody unknown: that must not keep an emergency from being paged.
		o.actor.ID = surrogate(o.actor.ID)
		if !outsideRole(o.actor.Role) {
			o.actor.Role = states.RoleUnknown
		}
		return o, nil
	case states.SourceOperator:
		o.source = source
	default:
		return o, refuse(CodeBadSource, "header "+HeaderSource+": must be absent, nats, pubnub, operator or consultd")
	}
	switch {
	case o.actor.ID == "" || o.actor.Role == "":
		return o, refuse(CodeActorMissing, "headers "+HeaderActor+" and "+HeaderRole+": both must be set by whoever authenticated the sender")
	case !Identifier(o.actor.ID):
		return o, refuse(CodeBadIdentifier, "header "+HeaderActor+": must be 1 to 32 characters of A-Z a-z 0-9 _ -")
	case !outsideRole(o.actor.Role):
		return o, refuse(CodeActorMissing, "header "+HeaderRole+": must be patient, provider, nurse, front-desk, on-call, backend or operator")
	}
	return o, nil
}

// surrogate is a PubNub user id as it may stand in records and audit entries. One that is no identifier belongs to nobody
// that the daemon knows; it is replaced by its hash instead of being refused, so that it can still raise an emergency.
func surrogate(user string) string {
	if Identifier(user) {
		return user
	}
	return "anon-" + string(states.NewEventID(states.SourcePubNub, "", user, ""))
}

func outsideRole(r states.Role) bool {
	switch r {
	case states.RolePatient, states.RoleProvider, states.RoleNurse, states.RoleFrontDesk, states.RoleOnCall, states.RoleBackend, states.RoleOperator:
		return true
	}
	return false
}

// channelRole is what a PubNub user is to a message by the names in its channel; the directory may know more.
func channelRole(ch Channel, user, patient string) states.Role {
	if ch.Class == ClassConsultation {
		patient = ch.Patient
	}
	switch user {
	case ch.Provider:
		return states.RoleProvider
	case patient:
		return states.RolePatient
	}
	return states.RoleUnknown
}

// ResolveRole completes the role of a PubNub user whom the message's channel does not name: from the staff directory, or
// as on-call staff when the event answers an escalation and the user is on a list of people to page.
func (c *Codec) ResolveRole(rules *states.Rules, ev *states.Event) { ResolveRole(rules, ev) }

// ResolveRole is the method of the same name; it needs no Codec.
func ResolveRole(rules *states.Rules, ev *states.Event) {
	if rules == nil || ev.Source != states.SourcePubNub || ev.Actor.Role != states.RoleUnknown {
		return
	}
	if role, staff := rules.Directory.Staff[ev.Actor.ID]; staff {
		ev.Actor.Role = role
		return
	}
	switch ev.Kind {
	case states.EmergencyAccepted, states.EmergencyRejected, states.EmergencyAttended, states.EmergencyResolved,
		states.EmergencyCancelled, states.EmergencySeverityChanged:
	default:
		return
	}
	listed := slices.Contains(rules.Paging.Failsafe, ev.Actor.ID)
	for people := range maps.Values(rules.Paging.OnCall) {
		listed = listed || slices.Contains(people, ev.Actor.ID)
	}
	if listed {
		ev.Actor.Role = states.RoleOnCall
	}
}

// requested reads an EMERGENCY_REQUESTED as it came over PubNub, already decrypted.
func (c *Codec) requested(channel, publisher, timetoken string, plain []byte) (states.Event, *Refused) {
	ch, err := ParseChannel(channel)
	if err != nil || ch.Class != ClassConsultation {
		return states.Event{}, refuse(CodeUnknownChannel, "channel: must be consultation.{providerId}.{patientId}")
	}
	header := map[string]string{HeaderSource: string(states.SourcePubNub), HeaderActor: publisher, HeaderTimetoken: timetoken}
	from, refused := sender(header)
	if refused != nil {
		return states.Event{}, refused
	}
	if len(plain) > MaxMessage {
		return states.Event{}, tooLarge()
	}
	body, refused := parseStrict(plain)
	if refused != nil {
		return states.Event{}, refused
	}
	ev, refused := c.event(states.Entry{Header: header}, ch, from, body, false)
	if refused == nil && ev.Kind != states.EmergencyRequested {
		refused = refuse(CodeUnknownAction, "action: must be EMERGENCY_REQUESTED")
	}
	return ev, refused
}

// open decrypts and parses the payload.
func (c *Codec) open(e states.Entry, source states.Source, channel string) (map[string]any, bool, *Refused) {
	if len(e.Data) > maxPayload {
		return nil, false, tooLarge()
	}
	plain, encrypted := e.Data, false
	if source == states.SourcePubNub && c.decrypt != nil {
		var err error
		if plain, encrypted, err = c.decrypt(channel, e.Data); err != nil {
			return nil, false, refuse(CodeUndecryptable, "message: none of the known keys opens it")
		}
		if !encrypted {
			return nil, false, refuse(CodePlaintext, "message: must be encrypted on this channel")
		}
	}
	if len(plain) > MaxMessage {
		return nil, false, tooLarge()
	}
	body, refused := parseStrict(plain)
	return body, encrypted, refused
}

func tooLarge() *Refused {
	return refuse(CodeTooLarge, "message: must have at most "+strconv.Itoa(MaxMessage)+" bytes")
}

// check finds the schema of a message and validates it.
func (c *Codec) check(class Class, body map[string]any) (inbound, *Refused) {
	action, isText := body["action"].(string)
	if !isText {
		return inbound{}, refuse(CodeSchema, "action: is needed and must be one of "+c.known[class])
	}
	message, known := c.inbound[class][action]
	if !known {
		return inbound{}, refuse(CodeUnknownAction, "action: must be one of "+c.known[class]+" on this channel")
	}
	return message, validate(message.schema, body)
}

func validate(schema *jsonschema.Schema, body map[string]any) *Refused {
	if err := schema.Validate(body); err != nil {
		return violation(err)
	}
	return nil
}

// messageID is the sender's id of the message. PubNub's stock clients send none: their message is identified by its time,
// or failing that by its place in the log.
func messageID(e states.Entry, from origin, body map[string]any) (string, *Refused) {
	if id := field(body, "id"); id != "" {
		return id, nil
	}
	if from.source != states.SourcePubNub {
		return "", refuse(CodeSchema, "id: is needed on NATS, and must be new for every message that is not a repeat")
	}
	for _, id := range []string{from.timetoken, e.Header[HeaderMsgID]} {
		if id != "" {
			return id, nil
		}
	}
	return string(e.Lane) + strconv.FormatUint(e.Seq, 10), nil
}

// fill copies the fields of a valid message. A schema is closed, so a field that is present belongs to the message.
func fill(ev *states.Event, body map[string]any, encrypted bool) *Refused {
	for key, value := range body {
		switch v := value.(type) {
		case string:
			switch key {
			case "timestamp", "startsAt":
				at, err := time.Parse(time.RFC3339, v)
				if err != nil {
					return refuse(CodeSchema, key+": must be a date-time")
				}
				if key == "timestamp" {
					ev.Said = at.UTC()
				} else {
					ev.StartsAt = at.UTC()
				}
			case "appointmentId":
				ev.Appointment = v
			case "departmentId":
				ev.Department = v
			case "patientId":
				ev.Patient = v
			case "consultationId":
				ev.Consultation = v
			case "escalationId":
				ev.Escalation = v
			case "priority":
				ev.Priority = states.Priority(v)
			case "severity":
				ev.Severity = states.Severity(v)
			case "reasonCode", "visitReasonCode":
				ev.ReasonCode = v
			case "outcomeCode":
				ev.OutcomeCode = v
			case "reason":
				if encrypted {
					ev.Reason = states.NewPHI(v)
				}
			}
		case bool:
			switch key {
			case "deviceReady":
				ev.DeviceReady = &v
			case "interpreterNeeded":
				ev.Interpreter = v
			}
		case map[string]any: // summary is the only object in a message
			ev.FollowUpRequired, _ = v["followUpRequired"].(bool)
			ev.Duration = minutes(v["duration"])
		default:
			if key == "delayMinutes" {
				ev.Delay = minutes(v)
			}
		}
	}
	return nil
}

func minutes(value any) time.Duration {
	switch n := value.(type) {
	case int64:
		return time.Duration(n) * time.Minute
	case float64:
		return time.Duration(n * float64(time.Minute)).Round(time.Second)
	}
	return 0
}

// place settles whose visit and which escalation the event is about, by the channel first, and who the message claims to
// be from.
func place(ev *states.Event, ch Channel, body map[string]any) *Refused {
	switch ch.Class {
	case ClassWaitingRoom:
		ev.Provider = ch.Provider
		if provider := field(body, "providerId"); provider != "" && provider != ch.Provider {
			return mismatch("providerId: must be the provider of the channel")
		}
		if ev.Patient != "" {
			rule := Consultation(ch.Provider, ev.Patient)
			if ev.Consultation != "" && ev.Consultation != rule {
				return mismatch("consultationId: must be consultation.{providerId}.{patientId} of this channel and patient")
			}
			ev.Consultation = rule
		} else if ev.Consultation != "" && !strings.HasPrefix(ev.Consultation, Consultation(ch.Provider, "")) {
			return mismatch("consultationId: must be one of this channel's provider")
		}
		switch ev.Kind {
		case states.PatientCheckedIn, states.PatientReadyConfirmed, states.WaitingRoomLeft:
			ev.ClaimedSender = ev.Patient
		}
	case ClassConsultation:
		if ev.Consultation != "" && ev.Consultation != ev.Channel {
			return mismatch("consultationId: must be the name of the channel")
		}
		ev.Consultation, ev.Provider, ev.Patient = ev.Channel, ch.Provider, ch.Patient
		return claimInConsultation(ev, body)
	case ClassEmergency:
		ev.Department = ch.Department
		if ev.Consultation != "" {
			if c, err := ParseChannel(ev.Consultation); err != nil || c.Class != ClassConsultation {
				return refuse(CodeBadIdentifier, "consultationId: must be consultation.{providerId}.{patientId}")
			}
		}
		ev.ClaimedSender = field(body, "userId")
		if ev.Kind == states.EmergencyEscalation {
			ev.ClaimedSender = field(body, "escalatedBy")
			ev.Escalation = newEscalation(ev, field(body, "id"))
			return nil
		}
		ev.Escalation = escalationRef(ev.Channel, ev.Escalation)
	}
	return nil
}

func claimInConsultation(ev *states.Event, body map[string]any) *Refused {
	who, member := field(body, "providerId"), ev.Provider
	if patient := field(body, "patientId"); patient != "" {
		who, member = patient, ev.Patient
	}
	if ev.Kind == states.EmergencyRequested {
		ev.ClaimedSender = field(body, "escalatedBy")
		return nil
	}
	ev.ClaimedSender = who
	// A false claim of somebody who speaks for himself is for the rules to refuse, in the visit's audit chain. Who may speak
	// for anybody would pass there, and a third person's arrival would count as that of the channel's provider or patient.
	if speaks := ev.Actor.Role == states.RoleBackend || ev.Actor.Role == states.RoleOperator; speaks && who != member {
		return mismatch("providerId, patientId: must be the provider or patient of the channel")
	}
	return nil
}

func mismatch(detail string) *Refused { return refuse(CodeChannelMismatch, detail) }

// newEscalation is the id of an escalation that a message raises: the message's own id where it can be one.
func newEscalation(ev *states.Event, id string) string {
	if id == "" || len(id) > uuidLength || strings.ContainsAny(id, ".:") {
		return states.EscalationID(ev.ID)
	}
	return escalationRef(ev.Channel, id)
}

const uuidLength = 36

// escalationRef is the escalation that an id in a message means. A UUID is too long to be an identifier; both who raises an
// escalation with one and who answers it get the same shorter id.
func escalationRef(channel, id string) string {
	if Identifier(id) {
		return id
	}
	return string(states.NewEventID("escalation", channel, "", id))
}

// decodeOwn reads what the daemon itself put into the log.
func (c *Codec) decodeOwn(e states.Entry) (states.Event, *Refused) {
	key := ownKey(e.Subject)
	if !Identifier(key) {
		return states.Event{}, refuse(CodeUnknownChannel, "subject: is none of the daemon's")
	}
	if len(e.Data) > MaxMessage {
		return states.Event{}, tooLarge()
	}
	body, refused := parseStrict(e.Data)
	if refused != nil {
		return states.Event{}, refused
	}
	if e.Subject == OnCallSubject(key) {
		return c.decodeOnCall(e, key, body)
	}
	if refused := validate(c.internal["timer"], body); refused != nil {
		return states.Event{}, refused
	}
	name := field(body, "timer")
	timer, err := states.ParseTimerID(name)
	record, scoped := timer.Record.ID, true
	if timer.Record.Kind == states.KindEscalation {
		record, scoped = strings.CutPrefix(record, states.EscalationRecord(key, "").ID)
	}
	if err != nil || timer.Key != key || !scoped || !Identifier(record) {
		return states.Event{}, refuse(CodeBadTimer, "timer: must name an armed timer of the subject's provider or department")
	}
	ev := states.Event{
		ID: states.NewEventID(states.SourceTimer, e.Subject, system, name), Kind: states.TimerFired, At: e.At.UTC(),
		Source: states.SourceTimer, Actor: states.Actor{ID: system, Role: states.RoleSystem}, Timer: timer,
	}
	switch timer.Record.Kind {
	case states.KindVisit:
		ev.Provider, ev.Appointment = key, record
	case states.KindEscalation:
		ev.Department, ev.Escalation = key, record
	default:
		return states.Event{}, refuse(CodeBadTimer, "timer: must be of a visit or an escalation")
	}
	return ev, nil
}

func (c *Codec) decodeOnCall(e states.Entry, department string, body map[string]any) (states.Event, *Refused) {
	if refused := validate(c.internal["on-call"], body); refused != nil {
		return states.Event{}, refused
	}
	if field(body, "departmentId") != department {
		return states.Event{}, mismatch("departmentId: must be the department of the subject")
	}
	answer := states.OnCallAnswer{Origin: field(body, "origin"), Users: []string{}}
	answer.AgeMS, _ = body["ageMs"].(int64)
	users, _ := body["users"].([]any)
	for _, user := range users {
		if id, isText := user.(string); isText {
			answer.Users = append(answer.Users, id)
		}
	}
	escalation := field(body, "escalationId")
	return states.Event{
		ID: states.NewEventID(states.SourceConsultd, e.Subject, system, escalation+"@"+e.Header[HeaderMsgID]), Kind: states.OnCallAnswered, At: e.At.UTC(),
		Source: states.SourceConsultd, Actor: states.Actor{ID: system, Role: states.RoleSystem},
		Department: department, Escalation: escalation, OnCall: answer,
	}, nil
}

// field is a field of a message, "" when it is absent or no text.
func field(body map[string]any, key string) string {
	s, _ := body[key].(string)
	return s
}

func sortedNames(schemas map[string]*jsonschema.Schema) string {
	return strings.Join(slices.Sorted(maps.Keys(schemas)), ", ")
}
