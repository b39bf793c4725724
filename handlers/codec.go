package handlers

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"consultd/states"
)

// Options is what a Codec has to be told.
type Options struct {
	// Organization is the id of the one organisation whose messages these are.
	Organization string

	// Decrypt opens the payload of a PubNub message. encrypted is false when the payload was in clear: such a message is
	// refused. An error means that no known key opens it. Nil: this keyset does not encrypt, and clear messages are taken,
	// but their free text is dropped.
	Decrypt func(channel string, payload []byte) (plain []byte, encrypted bool, err error)

	// APNSTopic is the bundle id of the app that Apple delivers to, APNSEnvironment "development" or "production" (the
	// default). Without a topic the push block has no target, and PubNub sends what was registered for the channel.
	APNSTopic       string
	APNSEnvironment string

	// LegacyGCM adds pn_gcm beside pn_fcm, for apps that were registered before Google renamed it.
	LegacyGCM bool
}

// Codec reads entries and writes messages. It holds nothing but compiled schemas and fixed texts, and is safe for
// concurrent use.
type Codec struct {
	organization string
	decrypt      func(channel string, payload []byte) ([]byte, bool, error)
	inbound      map[Class]map[string]inbound
	known        map[Class]string // the actions of a class, for the refusal of others
	internal     map[string]*jsonschema.Schema
	texts        map[string]text
	push         pushBlocks
}

// inbound is one message that the daemon understands.
type inbound struct {
	schema *jsonschema.Schema
	kind   states.Kind
}

// New compiles the schemas. The error says which option or embedded file is wrong.
func New(o Options) (*Codec, error) {
	if !Identifier(o.Organization) {
		return nil, errors.New("codec: organization must be 1 to 32 characters of A-Z a-z 0-9 _ -")
	}
	compile, err := compiler()
	if err != nil {
		return nil, err
	}
	c := &Codec{
		organization: o.Organization,
		decrypt:      o.Decrypt,
		inbound:      make(map[Class]map[string]inbound),
		known:        make(map[Class]string),
		texts:        englishTexts(),
	}
	for _, class := range []Class{ClassWaitingRoom, ClassConsultation, ClassEmergency} {
		schemas, err := compileFolder(compile, "schema/inbound/"+string(class))
		if err != nil {
			return nil, err
		}
		c.inbound[class] = make(map[string]inbound, len(schemas))
		for action, schema := range schemas {
			c.inbound[class][action] = inbound{schema, kindOf(class, action)}
		}
		c.known[class] = sortedNames(schemas)
	}
	if c.internal, err = compileFolder(compile, "schema/internal"); err != nil {
		return nil, err
	}
	if c.push, err = newPushBlocks(o, c.texts); err != nil {
		return nil, fmt.Errorf("codec: %w", err)
	}
	return c, nil
}

// kindOf is the event that an action means. PATIENT_LEFT means two things on two channels.
func kindOf(class Class, action string) states.Kind {
	if class == ClassWaitingRoom && action == string(states.PatientLeft) {
		return states.WaitingRoomLeft
	}
	return states.Kind(action)
}

// Key is what places a subject in a partition: see the function Key.
func (c *Codec) Key(subject string) string {
	key, _ := Key(subject)
	return key
}

// RulesSubject is where a lane's rules enter its log.
func (c *Codec) RulesSubject(lane states.Lane) string { return RulesSubject(lane) }

// TimerSubject is where a due timer enters its lane's log.
func (c *Codec) TimerSubject(lane states.Lane, key string) string { return TimerSubject(lane, key) }

// TimerData is the content of a due timer's entry.
func (c *Codec) TimerData(id states.TimerID) []byte {
	return append(appendString([]byte(`{"timer":`), id.String()), '}')
}

// OnCallData is the content of the entry with which the on-call source answers for an escalation.
func (c *Codec) OnCallData(escalation, department string, answer states.OnCallAnswer) ([]byte, error) {
	if answer.Users == nil {
		answer.Users = []string{}
	}
	data, err := json.Marshal(struct {
		Escalation string `json:"escalationId"`
		Department string `json:"departmentId"`
		states.OnCallAnswer
	}{escalation, department, answer})
	if err != nil {
		return nil, fmt.Errorf("encode on-call answer: %w", err)
	}
	return data, nil
}
