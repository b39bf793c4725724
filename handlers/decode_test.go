package handlers

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"consultd/states"
)

var storedAt = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// examples has one message for each inbound schema, in the shape in which the apps send it, with every field that the
// schema knows.
func examples() map[string]string {
	return map[string]string{
		"waiting-room/APPOINTMENT_SCHEDULED":   `{"id":"m1","action":"APPOINTMENT_SCHEDULED","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","patientId":"pat-1","providerId":"dr-smith","departmentId":"cardiology","consultationId":"consultation.dr-smith.pat-1","startsAt":"2026-03-02T10:00:00Z","priority":"normal","visitReasonCode":"follow-up"}`,
		"waiting-room/APPOINTMENT_CANCELLED":   `{"id":"m1","action":"APPOINTMENT_CANCELLED","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","patientId":"pat-1","consultationId":"consultation.dr-smith.pat-1","reasonCode":"patient-request"}`,
		"waiting-room/APPOINTMENT_RESCHEDULED": `{"id":"m1","action":"APPOINTMENT_RESCHEDULED","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","patientId":"pat-1","consultationId":"consultation.dr-smith.pat-1","startsAt":"2026-03-03T10:00:00Z","reasonCode":"provider-ill"}`,
		"waiting-room/PATIENT_CHECKED_IN":      `{"id":"m1","action":"PATIENT_CHECKED_IN","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","patientId":"pat-1","consultationId":"consultation.dr-smith.pat-1","departmentId":"cardiology","priority":"urgent","deviceReady":true,"interpreterNeeded":true}`,
		"waiting-room/PATIENT_READY_CONFIRMED": `{"id":"m1","action":"PATIENT_READY_CONFIRMED","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","patientId":"pat-1","consultationId":"consultation.dr-smith.pat-1","deviceReady":false}`,
		"waiting-room/PATIENT_LEFT":            `{"id":"m1","action":"PATIENT_LEFT","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","patientId":"pat-1","consultationId":"consultation.dr-smith.pat-1"}`,
		"waiting-room/PRIORITY_CHANGED":        `{"id":"m1","action":"PRIORITY_CHANGED","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","priority":"emergency"}`,
		"waiting-room/PROVIDER_RUNNING_LATE":   `{"id":"m1","action":"PROVIDER_RUNNING_LATE","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","delayMinutes":20}`,

		"consultation/PROVIDER_JOINED":      `{"id":"m1","action":"PROVIDER_JOINED","providerId":"dr-smith","state":"connecting","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","consultationId":"consultation.dr-smith.pat-1"}`,
		"consultation/PATIENT_JOINED":       `{"id":"m1","action":"PATIENT_JOINED","patientId":"pat-1","state":"in-progress","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","consultationId":"consultation.dr-smith.pat-1"}`,
		"consultation/PROVIDER_LEFT":        `{"id":"m1","action":"PROVIDER_LEFT","providerId":"dr-smith","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","consultationId":"consultation.dr-smith.pat-1"}`,
		"consultation/PATIENT_LEFT":         `{"id":"m1","action":"PATIENT_LEFT","patientId":"pat-1","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","consultationId":"consultation.dr-smith.pat-1"}`,
		"consultation/CONSULTATION_HELD":    `{"id":"m1","action":"CONSULTATION_HELD","providerId":"dr-smith","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","consultationId":"consultation.dr-smith.pat-1"}`,
		"consultation/CONSULTATION_RESUMED": `{"id":"m1","action":"CONSULTATION_RESUMED","providerId":"dr-smith","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","consultationId":"consultation.dr-smith.pat-1"}`,
		"consultation/CONSULTATION_ENDED":   `{"id":"m1","action":"CONSULTATION_ENDED","providerId":"dr-smith","state":"completed","summary":{"duration":12.5,"followUpRequired":true},"timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","consultationId":"consultation.dr-smith.pat-1"}`,
		"consultation/NOTES_COMPLETED":      `{"id":"m1","action":"NOTES_COMPLETED","providerId":"dr-smith","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","consultationId":"consultation.dr-smith.pat-1"}`,
		"consultation/EMERGENCY_REQUESTED":  `{"id":"m1","action":"EMERGENCY_REQUESTED","severity":"life-threatening","reasonCode":"chest-pain","reason":"collapsed","escalatedBy":"pat-1","departmentId":"cardiology","timestamp":"2026-03-02T09:00:00.000Z","appointmentId":"apt-1","consultationId":"consultation.dr-smith.pat-1"}`,

		"emergency/EMERGENCY_ESCALATION":       `{"id":"0f8fad5b-d9cb-469f-a165-70867728950e","action":"EMERGENCY_ESCALATION","consultationId":"consultation.dr-smith.pat-1","appointmentId":"apt-1","escalatedBy":"dr-smith","severity":"critical","reasonCode":"stroke","reason":"collapsed","timestamp":"2026-03-02T09:00:00.000Z","status":"active"}`,
		"emergency/EMERGENCY_ACCEPTED":         `{"id":"m1","action":"EMERGENCY_ACCEPTED","escalationId":"esc-1","userId":"dr-jones","timestamp":"2026-03-02T09:00:00.000Z"}`,
		"emergency/EMERGENCY_REJECTED":         `{"id":"m1","action":"EMERGENCY_REJECTED","escalationId":"esc-1","userId":"dr-jones","reasonCode":"in-surgery","timestamp":"2026-03-02T09:00:00.000Z"}`,
		"emergency/EMERGENCY_ATTENDED":         `{"id":"m1","action":"EMERGENCY_ATTENDED","escalationId":"esc-1","userId":"dr-jones","timestamp":"2026-03-02T09:00:00.000Z"}`,
		"emergency/EMERGENCY_RESOLVED":         `{"id":"m1","action":"EMERGENCY_RESOLVED","escalationId":"esc-1","userId":"dr-jones","outcomeCode":"transferred","timestamp":"2026-03-02T09:00:00.000Z"}`,
		"emergency/EMERGENCY_CANCELLED":        `{"id":"m1","action":"EMERGENCY_CANCELLED","escalationId":"esc-1","userId":"dr-jones","reasonCode":"false-alarm","timestamp":"2026-03-02T09:00:00.000Z"}`,
		"emergency/EMERGENCY_SEVERITY_CHANGED": `{"id":"m1","action":"EMERGENCY_SEVERITY_CHANGED","escalationId":"esc-1","userId":"dr-jones","severity":"urgent","timestamp":"2026-03-02T09:00:00.000Z"}`,
	}
}

func subjectOf(example string) string {
	switch path.Dir(example) {
	case "waiting-room":
		return "consult.in.waiting-room.dr-smith"
	case "consultation":
		return "consult.in.consultation.dr-smith.pat-1"
	default:
		return "consult.in.emergency.cardiology"
	}
}

func backend(subject, data string) states.Entry {
	return states.Entry{
		Lane: LaneOf(subject), Seq: 7, At: storedAt, Subject: subject, Data: []byte(data),
		Header: map[string]string{HeaderActor: "clinic-backend", HeaderRole: "backend", HeaderMsgID: "x"},
	}
}

// app is an entry as the ingester writes it; with testDecrypt a message is sealed by turning it into base64 in quotes.
func app(subject, user, data string) states.Entry {
	return states.Entry{
		Lane: LaneOf(subject), Seq: 7, At: storedAt, Subject: subject, Data: seal(data),
		Header: map[string]string{HeaderSource: "pubnub", HeaderActor: user, HeaderTimetoken: "17724420000000001", HeaderMsgID: "x"},
	}
}

func seal(data string) []byte {
	return []byte(`"` + base64.StdEncoding.EncodeToString([]byte(data)) + `"`)
}

// testDecrypt stands at the place of the key ring: what it opens is told apart from clear text as the ring does.
func testDecrypt(_ string, payload []byte) ([]byte, bool, error) {
	text, quoted := strings.CutPrefix(string(payload), `"`)
	if !quoted {
		return payload, false, nil
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(text, `"`))
	return plain, true, err
}

func newCodec(t testing.TB) *Codec {
	t.Helper()
	c, err := New(Options{Organization: "clinic-north", Decrypt: testDecrypt, APNSTopic: "org.example.clinic", LegacyGCM: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func refusal(t *testing.T, err error) *Refused {
	t.Helper()
	var r *Refused
	if !errors.As(err, &r) {
		t.Fatalf("%v is no refusal", err)
	}
	return r
}

func TestEveryInboundSchemaHasAnExample(t *testing.T) {
	c, have := newCodec(t), examples()
	for class, messages := range c.inbound {
		for action := range messages {
			name := string(class) + "/" + action
			example, ok := have[name]
			if !ok {
				t.Errorf("%s has no example", name)
				continue
			}
			var fields, schema map[string]any
			decodeInto(t, []byte(example), &fields)
			decodeInto(t, schemaFile(t, "inbound/"+name), &schema)
			for field := range schema["properties"].(map[string]any) {
				if _, ok := fields[field]; !ok {
					t.Errorf("%s: the example lacks %s", name, field)
				}
			}
			delete(have, name)
		}
	}
	for name := range have {
		t.Errorf("%s has an example but no schema", name)
	}
}

func TestEveryKindFromOutsideHasASchema(t *testing.T) {
	c := newCodec(t)
	var kinds []string
	for _, messages := range c.inbound {
		for _, m := range messages {
			kinds = append(kinds, string(m.kind))
		}
	}
	kinds = append(kinds, string(states.OnCallAnswered), string(states.TimerFired))
	for name, value := range constants(t, "../states/event.go", "Kind") {
		if !slices.Contains(kinds, value) {
			t.Errorf("no message becomes states.%s", name)
		}
	}
}

func TestDecodeTakesWhatAppsAndBackendSend(t *testing.T) {
	c := newCodec(t)
	for name, example := range examples() {
		subject := subjectOf(name)
		for _, e := range []states.Entry{backend(subject, example), app(subject, "pat-1", example)} {
			ev, err := c.Decode(e)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			want := states.Kind(path.Base(name))
			if name == "waiting-room/PATIENT_LEFT" {
				want = states.WaitingRoomLeft
			}
			if ev.Kind != want || ev.ID == "" || !ev.Said.Equal(storedAt) || "consult.in."+ev.Channel != subject {
				t.Errorf("%s: %+v", name, ev)
			}
		}
	}
}

func TestDecodeCopiesEveryField(t *testing.T) {
	c, yes, no := newCodec(t), true, false
	wantAt := time.Unix(0, 17724420000000001*100).UTC()
	for name, want := range map[string]states.Event{
		"waiting-room/APPOINTMENT_SCHEDULED": {
			Appointment: "apt-1", Patient: "pat-1", Provider: "dr-smith", Department: "cardiology", Consultation: "consultation.dr-smith.pat-1",
			StartsAt: storedAt.Add(time.Hour), Priority: "normal", ReasonCode: "follow-up",
		},
		"waiting-room/PATIENT_CHECKED_IN": {
			Appointment: "apt-1", Patient: "pat-1", Provider: "dr-smith", Department: "cardiology", Consultation: "consultation.dr-smith.pat-1",
			Priority: "urgent", DeviceReady: &yes, Interpreter: true, ClaimedSender: "pat-1",
		},
		"waiting-room/PATIENT_READY_CONFIRMED": {
			Appointment: "apt-1", Patient: "pat-1", Provider: "dr-smith", Consultation: "consultation.dr-smith.pat-1", DeviceReady: &no, ClaimedSender: "pat-1",
		},
		"waiting-room/PROVIDER_RUNNING_LATE": {Appointment: "apt-1", Provider: "dr-smith", Delay: 20 * time.Minute},
		"consultation/CONSULTATION_ENDED": {
			Appointment: "apt-1", Patient: "pat-1", Provider: "dr-smith", Consultation: "consultation.dr-smith.pat-1", ClaimedSender: "dr-smith",
			Duration: 12*time.Minute + 30*time.Second, FollowUpRequired: true,
		},
		"consultation/EMERGENCY_REQUESTED": {
			Appointment: "apt-1", Patient: "pat-1", Provider: "dr-smith", Consultation: "consultation.dr-smith.pat-1", ClaimedSender: "pat-1",
			Department: "cardiology", Severity: "life-threatening", ReasonCode: "chest-pain",
		},
		"emergency/EMERGENCY_RESOLVED": {Department: "cardiology", Escalation: "esc-1", ClaimedSender: "dr-jones", OutcomeCode: "transferred"},
	} {
		got, err := c.Decode(app(subjectOf(name), "pat-1", examples()[name]))
		if err != nil {
			t.Fatal(name, err)
		}
		if !got.At.Equal(wantAt) || got.At.Location() != time.UTC || got.Source != states.SourcePubNub || got.Actor.ID != "pat-1" {
			t.Errorf("%s: came at %s from %s %+v", name, got.At, got.Source, got.Actor)
		}
		if name == "consultation/EMERGENCY_REQUESTED" && got.Reason.Reveal() != "collapsed" {
			t.Errorf("%s: the encrypted reason is lost", name)
		}
		want.ID, want.Kind, want.At, want.Said, want.Source = got.ID, got.Kind, got.At, got.Said, got.Source
		want.Actor, want.Channel, want.Reason = got.Actor, got.Channel, got.Reason
		if a, b := asJSON(t, got), asJSON(t, want); a != b {
			t.Errorf("%s:\n got %s\nwant %s", name, a, b)
		}
	}
}

func TestDecodeRefusesEveryDeviationFromTheSchema(t *testing.T) {
	c := newCodec(t)
	const canary = "Zebra Quagga"
	refused := func(name, how string, fields map[string]any) {
		t.Helper()
		data, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := c.Decode(backend(subjectOf(name), string(data)))
		if err == nil {
			t.Errorf("%s with %s is accepted: %+v", name, how, ev)
			return
		}
		if r := refusal(t, err); r.Ignore || r.Detail == "" || strings.Contains(r.Error(), "Zebra") {
			t.Errorf("%s with %s: %v", name, how, r)
		}
	}
	for name, example := range examples() {
		var schema, fields map[string]any
		decodeInto(t, schemaFile(t, "inbound/"+name), &schema)
		required := []string{"id"}
		for _, field := range schema["required"].([]any) {
			required = append(required, field.(string))
		}
		with := func(field string, value any) map[string]any {
			fields = nil
			decodeInto(t, []byte(example), &fields)
			if value == nil {
				delete(fields, field)
			} else {
				fields[field] = value
			}
			return fields
		}
		for _, field := range required {
			refused(name, "no "+field, with(field, nil))
		}
		refused(name, "an unknown field", with(canary, canary))
		refused(name, "nothing", map[string]any{})
		for field, value := range with("nothing", nil) {
			switch value.(type) {
			case string:
				refused(name, "a number as "+field, with(field, 42))
				refused(name, "an overlong "+field, with(field, strings.Repeat("a", 4001)))
				if field != "reason" {
					refused(name, "a strange "+field, with(field, canary))
					refused(name, "an empty "+field, with(field, ""))
				}
			case map[string]any:
				refused(name, "a text as "+field, with(field, canary))
				refused(name, "an empty "+field, with(field, map[string]any{}))
				refused(name, "more in "+field, with(field, map[string]any{"duration": 1, "followUpRequired": true, "note": canary}))
				refused(name, "a negative number in "+field, with(field, map[string]any{"duration": -1, "followUpRequired": true}))
				refused(name, "a text in "+field, with(field, map[string]any{"duration": "1", "followUpRequired": true}))
			default:
				refused(name, "a text as "+field, with(field, canary))
			}
			refused(name, "a list as "+field, with(field, []any{}))
			if field == "delayMinutes" {
				refused(name, "half a minute", with(field, 0.5))
				refused(name, "a negative delay", with(field, -1))
				refused(name, "a year's delay", with(field, 525600))
			}
			if strings.HasSuffix(field, "Id") && field != "consultationId" && field != "escalationId" {
				refused(name, "a dot in "+field, with(field, "dr.smith"))
				refused(name, "a presence suffix in "+field, with(field, "dr-smith-pnpres"))
				refused(name, "33 characters in "+field, with(field, strings.Repeat("a", 33)))
			}
		}
	}
}

func TestDecodeNamesTheRule(t *testing.T) {
	c := newCodec(t)
	checkedIn := examples()["waiting-room/PATIENT_CHECKED_IN"]
	room, visit, urgent := "consult.in.waiting-room.dr-smith", "consult.in.consultation.dr-smith.pat-1", "consult.in.emergency.cardiology"
	for name, test := range map[string]struct {
		entry  states.Entry
		code   string
		detail string
	}{
		"unknown channel":       {backend("consult.in.chat", checkedIn), CodeUnknownChannel, "channel: has none of the known forms"},
		"unreadable name":       {backend(InSubject("waiting-room.a b"), checkedIn), CodeUnknownChannel, "channel: has none of the known forms"},
		"dots in a channel":     {backend("consult.in.waiting-room.dr.smith", checkedIn), CodeBadIdentifier, "channel: bad identifier: provider has a dot; identifiers have none"},
		"only spoken on":        {backend("consult.in.queue.cardiology", checkedIn), CodeNotInbound, "channel: queue channels are only spoken on by the daemon"},
		"notification":          {backend("consult.in.notification.pat-1", checkedIn), CodeNotInbound, ""},
		"presence":              {backend("consult.in.presence.providers.cardiology", checkedIn), CodeNotInbound, ""},
		"audit":                 {backend("consult.in.audit.clinic-north", checkedIn), CodeNotInbound, ""},
		"not a subject of ours": {backend("consult.log.else", checkedIn), CodeUnknownChannel, "subject: is none of the daemon's"},
		"dots in a field":       {backend(room, strings.Replace(checkedIn, `"apt-1"`, `"apt.1"`, 1)), CodeBadIdentifier, "appointmentId: must be 1 to 32 characters of A-Z a-z 0-9 _ - and not end in -pnpres"},
		"missing field":         {backend(room, `{"id":"m1","action":"PATIENT_LEFT","timestamp":"2026-03-02T09:00:00Z"}`), CodeSchema, "message: needs appointmentId"},
		"extra field":           {backend(room, `{"id":"m1","action":"PATIENT_LEFT","appointmentId":"a","timestamp":"2026-03-02T09:00:00Z","x":1}`), CodeSchema, "message: has a field that the schema does not know"},
		"bad enum":              {backend(room, strings.Replace(checkedIn, `"urgent"`, `"asap"`, 1)), CodeSchema, "priority: must be one of emergency, urgent, normal, follow-up"},
		"other zone":            {backend(room, strings.Replace(checkedIn, `.000Z`, `.000+01:00`, 1)), CodeSchema, "timestamp: has characters or a length that are not allowed"},
		"no such day":           {backend(room, strings.Replace(checkedIn, `2026-03-02`, `2026-02-30`, 1)), CodeSchema, "timestamp: must be a date-time"},
		"comma in the time":     {backend(room, strings.Replace(checkedIn, `.000Z`, `,000Z`, 1)), CodeSchema, "timestamp: must be a date-time"},
		"long fraction":         {backend(room, `{"delayMinutes":0.`+strings.Repeat("0", 100)+`1}`), CodeNotJSON, "message: has a number that is too large or too long"},
		"leap second":           {backend(room, strings.Replace(checkedIn, `2026-03-02T09:00:00.000Z`, `2016-12-31T23:59:60.000Z`, 1)), CodeSchema, "timestamp: must be a date-time"},
		"nested field":          {backend(visit, strings.Replace(examples()["consultation/CONSULTATION_ENDED"], "12.5", "-1", 1)), CodeSchema, "summary.duration: must be at least 0"},
		"no action":             {backend(room, `{"id":"m1"}`), CodeSchema, "action: is needed and must be one of APPOINTMENT_CANCELLED, APPOINTMENT_RESCHEDULED, APPOINTMENT_SCHEDULED, PATIENT_CHECKED_IN, PATIENT_LEFT, PATIENT_READY_CONFIRMED, PRIORITY_CHANGED, PROVIDER_RUNNING_LATE"},
		"action of another":     {backend(urgent, checkedIn), CodeUnknownAction, "action: must be one of EMERGENCY_ACCEPTED, EMERGENCY_ATTENDED, EMERGENCY_CANCELLED, EMERGENCY_ESCALATION, EMERGENCY_REJECTED, EMERGENCY_RESOLVED, EMERGENCY_SEVERITY_CHANGED on this channel"},
		"no id":                 {backend(room, strings.Replace(checkedIn, `"id":"m1",`, "", 1)), CodeSchema, "id: is needed on NATS, and must be new for every message that is not a repeat"},
		"other provider":        {backend("consult.in.waiting-room.dr-jones", examples()["waiting-room/APPOINTMENT_SCHEDULED"]), CodeChannelMismatch, "providerId: must be the provider of the channel"},
		"other consultation":    {backend("consult.in.waiting-room.dr-jones", checkedIn), CodeChannelMismatch, ""},
		"patient not of it":     {backend(room, strings.Replace(checkedIn, `"patientId":"pat-1"`, `"patientId":"pat-2"`, 1)), CodeChannelMismatch, ""},
		"not this channel":      {backend("consult.in.consultation.dr-smith.pat-2", examples()["consultation/PROVIDER_JOINED"]), CodeChannelMismatch, "consultationId: must be the name of the channel"},
		"backend errs":          {backend(visit, strings.Replace(examples()["consultation/PROVIDER_JOINED"], `"providerId":"dr-smith"`, `"providerId":"dr-jones"`, 1)), CodeChannelMismatch, ""},
		"clear text":            {withData(app(room, "pat-1", ""), []byte(checkedIn)), CodePlaintext, "message: must be encrypted on this channel"},
		"wrong key":             {withData(app(room, "pat-1", ""), []byte(`"%%%"`)), CodeUndecryptable, "message: none of the known keys opens it"},
		"huge":                  {backend(room, strings.Repeat(" ", 1<<20)), CodeTooLarge, "message: must have at most 32768 bytes"},
		"huge inside":           {app(room, "pat-1", `{"x":"`+strings.Repeat("x", MaxMessage)+`"}`), CodeTooLarge, ""},
		"huge timer":            {backend("consult.log.timer.dr-smith", strings.Repeat(" ", 1<<20)), CodeTooLarge, ""},
		"no JSON":               {backend(room, `{"id":`), CodeNotJSON, ""},
		"nothing":               {backend(room, ``), CodeNotJSON, ""},
		"null":                  {backend(room, `null`), CodeNotJSON, "message: must be an object"},
		"list":                  {backend(room, `[1]`), CodeNotJSON, "message: must be an object"},
		"two objects":           {backend(room, checkedIn+checkedIn), CodeNotJSON, "message: is not one JSON object; the fault is at byte 264"},
		"trailing comma":        {backend(room, `{"id":"m1",}`), CodeNotJSON, ""},
		"single quotes":         {backend(room, `{'id':1}`), CodeNotJSON, ""},
		"NaN":                   {backend(room, `{"id":NaN}`), CodeNotJSON, ""},
		"giant number":          {backend(room, `{"delayMinutes":1e999999999}`), CodeNotJSON, "message: has a number that is too large or too long"},
		"long number":           {backend(room, `{"delayMinutes":1`+strings.Repeat("0", 100)+`}`), CodeNotJSON, "message: has a number that is too large or too long"},
		"key twice":             {backend(room, strings.Replace(checkedIn, `{`, `{"id":"m2",`, 1)), CodeDuplicateKey, "message: has a field twice"},
		"key twice, escaped":    {backend(room, strings.Replace(checkedIn, `{`, `{"\u0069d":"m2",`, 1)), CodeDuplicateKey, "message: has a field twice"},
		"key twice inside":      {backend(room, `{"a":{"b":1,"b":2}}`), CodeDuplicateKey, "message: has a field twice"},
		"too deep":              {backend(room, `{"a":{"b":[{"c":[]}]}}`), CodeTooDeep, "message: is nested deeper than 4 levels"},
		"very deep":             {backend(room, `{"a":`+strings.Repeat("[", 15000)), CodeNotJSON, ""},
		"invalid UTF-8":         {backend(room, "{\"id\":\"\xff\"}"), CodeInvalidUTF8, "message: is not valid UTF-8"},
		"no actor":              {withHeader(backend(room, checkedIn), HeaderActor, ""), CodeActorMissing, "headers Consult-Actor and Consult-Role: both must be set by whoever authenticated the sender"},
		"no role":               {withHeader(backend(room, checkedIn), HeaderRole, ""), CodeActorMissing, ""},
		"role of nobody":        {withHeader(backend(room, checkedIn), HeaderRole, "system"), CodeActorMissing, "header Consult-Role: must be patient, provider, nurse, front-desk, on-call, backend or operator"},
		"actor with dots":       {withHeader(backend(room, checkedIn), HeaderActor, "dr.smith"), CodeBadIdentifier, ""},
		"no publisher":          {app(room, "", checkedIn), CodeActorMissing, "header Consult-Actor: is missing"},
		"unknown source":        {withHeader(backend(room, checkedIn), HeaderSource, "timer"), CodeBadSource, ""},
		"consultd checks in":    {withHeader(backend(room, checkedIn), HeaderSource, "consultd"), CodeBadSource, "header Consult-Source: consultd itself only raises escalations"},
		"consultd, no actor":    {withHeader(withHeader(backend(urgent, examples()["emergency/EMERGENCY_ESCALATION"]), HeaderSource, "consultd"), HeaderActor, ""), CodeActorMissing, ""},
		"timer of another":      {backend("consult.log.timer.dr-jones", `{"timer":"no-show|visit:apt-1|1|dr-smith"}`), CodeBadTimer, ""},
		"timer of a desk":       {backend("consult.log.timer.dr-smith", `{"timer":"no-show|desk:dr-smith|1|dr-smith"}`), CodeBadTimer, ""},
		"timer of nothing":      {backend("consult.log.timer.dr-smith", `{"timer":"no-show"}`), CodeBadTimer, ""},
		"timer without field":   {backend("consult.log.timer.dr-smith", `{}`), CodeSchema, "message: needs timer"},
		"answer elsewhere":      {backend("consult.urgent.oncall.oncology", `{"escalationId":"e","departmentId":"cardiology","users":[],"origin":"http","ageMs":0}`), CodeChannelMismatch, ""},
		"answer with dots":      {backend("consult.urgent.oncall.cardiology", `{"escalationId":"e","departmentId":"cardiology","users":["dr.jones"],"origin":"http","ageMs":0}`), CodeBadIdentifier, "users.0: must be 1 to 32 characters of A-Z a-z 0-9 _ - and not end in -pnpres"},
	} {
		ev, err := c.Decode(test.entry)
		if err == nil {
			t.Errorf("%s: accepted as %+v", name, ev)
			continue
		}
		r := refusal(t, err)
		if r.Code != test.code || r.Ignore || test.detail != "" && r.Detail != test.detail {
			t.Errorf("%s: %s %q, want %s %q", name, r.Code, r.Detail, test.code, test.detail)
		}
		if ev.ID != "" || r.RefusalCode() != r.Code || r.RefusalDetail() != r.Detail || r.Ignored() {
			t.Errorf("%s: %+v %+v", name, ev, r)
		}
	}
}

func TestVideoSignalsAndFilesArePassedOver(t *testing.T) {
	c := newCodec(t)
	for _, subject := range []string{"consult.in.consultation.dr-smith.pat-1.video", "consult.in.consultation.dr-smith.pat-1.files"} {
		_, err := c.Decode(withData(app(subject, "pat-1", ""), []byte("anything")))
		if r := refusal(t, err); !r.Ignored() || r.Code != CodeObservedOnly {
			t.Errorf("%s: %+v", subject, r)
		}
	}
}

func TestRolesOfPubNubUsers(t *testing.T) {
	c := newCodec(t)
	rules := &states.Rules{
		Directory: states.Directory{Staff: map[string]states.Role{"nurse-1": states.RoleNurse, "desk-1": states.RoleFrontDesk}},
		Paging:    states.Paging{OnCall: map[string][]string{"oncology": {"dr-jones", "nurse-1"}}, Failsafe: []string{"chief"}},
	}
	checkedIn, joined := "waiting-room/PATIENT_CHECKED_IN", "consultation/PROVIDER_JOINED"
	accepted, escalated := "emergency/EMERGENCY_ACCEPTED", "emergency/EMERGENCY_ESCALATION"
	for _, test := range []struct {
		message, user string
		want          states.Role
	}{
		{checkedIn, "pat-1", states.RolePatient},
		{checkedIn, "pat-2", states.RoleUnknown},
		{checkedIn, "dr-smith", states.RoleProvider},
		{checkedIn, "nurse-1", states.RoleNurse},
		{checkedIn, "dr-jones", states.RoleUnknown},
		{"waiting-room/PRIORITY_CHANGED", "pat-1", states.RoleUnknown},
		{joined, "dr-smith", states.RoleProvider},
		{joined, "pat-1", states.RolePatient},
		{joined, "dr-jones", states.RoleUnknown},
		{accepted, "dr-jones", states.RoleOnCall},
		{accepted, "chief", states.RoleOnCall},
		{accepted, "nurse-1", states.RoleNurse},
		{accepted, "dr-smith", states.RoleUnknown},
		{escalated, "dr-jones", states.RoleUnknown},
		{escalated, "desk-1", states.RoleFrontDesk},
	} {
		ev, err := c.Decode(app(subjectOf(test.message), test.user, examples()[test.message]))
		if err != nil {
			t.Fatal(err)
		}
		c.ResolveRole(rules, &ev)
		if ev.Actor != (states.Actor{ID: test.user, Role: test.want}) {
			t.Errorf("%s by %s: %+v, want %s", test.message, test.user, ev.Actor, test.want)
		}
	}
	ev, err := c.Decode(withHeader(backend(subjectOf(checkedIn), examples()[checkedIn]), HeaderActor, "nurse-1"))
	if err != nil {
		t.Fatal(err)
	}
	if ResolveRole(rules, &ev); ev.Actor.Role != states.RoleBackend {
		t.Errorf("the directory overrules what the backend authenticated: %+v", ev.Actor)
	}
}

func TestPubNubUserThatIsNoIdentifierGetsOne(t *testing.T) {
	c := newCodec(t)
	const name = "emergency/EMERGENCY_ESCALATION"
	first, err := c.Decode(app(subjectOf(name), "ann@example.org", examples()[name]))
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.Decode(app(subjectOf(name), "bob@example.org", examples()[name]))
	if err != nil {
		t.Fatal(err)
	}
	if !Identifier(first.Actor.ID) || first.Actor.ID == second.Actor.ID || strings.Contains(first.Actor.ID, "ann") {
		t.Errorf("%s, %s", first.Actor.ID, second.Actor.ID)
	}
}

func TestIdentityOfEvents(t *testing.T) {
	c := newCodec(t)
	const name = "waiting-room/PATIENT_CHECKED_IN"
	id := func(e states.Entry) states.EventID {
		t.Helper()
		ev, err := c.Decode(e)
		if err != nil {
			t.Fatal(err)
		}
		return ev.ID
	}
	withoutID := strings.Replace(examples()[name], `"id":"m1",`, "", 1)
	original := app(subjectOf(name), "pat-1", examples()[name])
	again := withHeader(original, HeaderTimetoken, "17724420000000009")
	again.Seq, again.At = 99, storedAt.Add(time.Hour)
	if id(original) != id(again) {
		t.Error("a repeat with the same id has another identity")
	}
	unnamed := app(subjectOf(name), "pat-1", withoutID)
	sameTime := unnamed
	sameTime.Seq = 99
	if id(unnamed) != id(sameTime) {
		t.Error("a message read twice has two identities")
	}
	seen := map[states.EventID]string{}
	for what, e := range map[string]states.Entry{
		"original":            original,
		"other sender":        app(subjectOf(name), "pat-2", examples()[name]),
		"other source":        backend(subjectOf(name), examples()[name]),
		"other id":            app(subjectOf(name), "pat-1", strings.Replace(examples()[name], `"m1"`, `"m2"`, 1)),
		"by timetoken":        unnamed,
		"other timetoken":     withHeader(unnamed, HeaderTimetoken, "17724420000000009"),
		"by message id":       withHeader(unnamed, HeaderTimetoken, ""),
		"by place in the log": withHeader(withHeader(unnamed, HeaderTimetoken, ""), HeaderMsgID, ""),
	} {
		if other, taken := seen[id(e)]; taken {
			t.Errorf("%s and %s have one identity", what, other)
		}
		seen[id(e)] = what
	}
}

func TestIDsOfEscalations(t *testing.T) {
	c := newCodec(t)
	const raise, answer = "emergency/EMERGENCY_ESCALATION", "emergency/EMERGENCY_ACCEPTED"
	const uuid = "0f8fad5b-d9cb-469f-a165-70867728950e"
	decode := func(name, old, replacement string) states.Event {
		t.Helper()
		ev, err := c.Decode(app(subjectOf(name), "dr-smith", strings.Replace(examples()[name], old, replacement, 1)))
		if err != nil {
			t.Fatal(err)
		}
		if !Identifier(ev.Escalation) {
			t.Errorf("%q is no identifier", ev.Escalation)
		}
		return ev
	}
	if got := decode(raise, uuid, "esc-1").Escalation; got != "esc-1" {
		t.Errorf("an identifier is not kept: %s", got)
	}
	byUUID := decode(raise, uuid, uuid)
	if got := decode(answer, "esc-1", uuid).Escalation; got != byUUID.Escalation {
		t.Errorf("raised as %s, answered as %s", byUUID.Escalation, got)
	}
	if got := decode(raise, uuid, uuid[:35]+"f"); got.Escalation == byUUID.Escalation {
		t.Error("two UUIDs become one escalation")
	}
	if got := decode(raise, uuid, "a.message:id"); got.Escalation != states.EscalationID(got.ID) {
		t.Errorf("%s is not derived from the event", got.Escalation)
	}
	if got := decode(raise, `"id":"`+uuid+`",`, ""); got.Escalation != states.EscalationID(got.ID) {
		t.Errorf("%s is not derived from the event", got.Escalation)
	}
}

func TestFreeTextIsKeptOnlyWhenItCameEncrypted(t *testing.T) {
	c := newCodec(t)
	clear, err := New(Options{Organization: "clinic-north"})
	if err != nil {
		t.Fatal(err)
	}
	const name = "emergency/EMERGENCY_ESCALATION"
	for what, test := range map[string]struct {
		codec *Codec
		entry states.Entry
		want  string
	}{
		"encrypted":       {c, app(subjectOf(name), "dr-smith", examples()[name]), "collapsed"},
		"on NATS":         {c, backend(subjectOf(name), examples()[name]), ""},
		"keyset in clear": {clear, withData(app(subjectOf(name), "dr-smith", ""), []byte(examples()[name])), ""},
	} {
		ev, err := test.codec.Decode(test.entry)
		if err != nil || ev.Reason.Reveal() != test.want {
			t.Errorf("%s: %v, %d characters of reason", what, err, len(ev.Reason.Reveal()))
		}
	}
}

func TestDueTimersComeBackAsEvents(t *testing.T) {
	c := newCodec(t)
	for _, id := range []states.TimerID{
		{Kind: states.TimerNoShow, Record: states.RecordID{Kind: states.KindVisit, ID: "apt-1"}, Key: "dr-smith", Generation: 3},
		{Kind: states.TimerRePage, Record: states.EscalationRecord("cardiology", "esc-1"), Key: "cardiology", Generation: 1},
	} {
		lane := states.LaneNormal
		if id.Record.Kind == states.KindEscalation {
			lane = states.LaneEmergency
		}
		e := states.Entry{Lane: lane, Seq: 3, At: storedAt, Subject: c.TimerSubject(lane, id.Key), Data: c.TimerData(id)}
		ev, err := c.Decode(e)
		if err != nil {
			t.Fatal(err)
		}
		if ev.Kind != states.TimerFired || ev.Timer != id || ev.Actor.Role != states.RoleSystem || ev.Source != states.SourceTimer || !ev.At.Equal(storedAt) {
			t.Errorf("%+v", ev)
		}
		if key := c.Key(e.Subject); key != id.Key || LaneOf(e.Subject) != lane {
			t.Errorf("%s is in lane %s under %q", e.Subject, LaneOf(e.Subject), key)
		}
		e.Seq, e.At = 9, storedAt.Add(time.Minute)
		again, err := c.Decode(e)
		if err != nil || again.ID != ev.ID {
			t.Errorf("a timer entered twice: %v, %v", again.ID, err)
		}
		id.Generation++
		e.Data = c.TimerData(id)
		if next, err := c.Decode(e); err != nil || next.ID == ev.ID {
			t.Errorf("the next generation: %v, %v", next.ID, err)
		}
	}
}

func TestOnCallAnswersComeBackAsEvents(t *testing.T) {
	c := newCodec(t)
	for _, answer := range []states.OnCallAnswer{
		{Users: []string{"dr-jones", "dr-lee"}, Origin: "cache", AgeMS: 1200},
		{Users: []string{}, Origin: "failsafe"},
		{Origin: "failsafe"},
	} {
		data, err := c.OnCallData("esc-1", "cardiology", answer)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := c.Decode(states.Entry{Lane: states.LaneEmergency, At: storedAt, Subject: OnCallSubject("cardiology"), Data: data})
		if err != nil {
			t.Fatal(err)
		}
		if ev.Kind != states.OnCallAnswered || ev.Escalation != "esc-1" || ev.Department != "cardiology" || ev.Actor.Role != states.RoleSystem ||
			!slices.Equal(ev.OnCall.Users, answer.Users) || ev.OnCall.Origin != answer.Origin || ev.OnCall.AgeMS != answer.AgeMS {
			t.Errorf("%+v", ev)
		}
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	for want, o := range map[string]Options{
		"organization": {Organization: "clinic.north"},
		"environment":  {Organization: "clinic-north", APNSEnvironment: "test"},
	} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// The helpers.

func withHeader(e states.Entry, key, value string) states.Entry {
	e.Header = maps.Clone(e.Header)
	if value == "" {
		delete(e.Header, key)
	} else {
		e.Header[key] = value
	}
	return e
}

func withData(e states.Entry, data []byte) states.Entry {
	e.Data = data
	return e
}

func schemaFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := Schemas.ReadFile("schema/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func decodeInto(t testing.TB, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(fmt.Errorf("%w in %s", err, data))
	}
}

func asJSON(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
