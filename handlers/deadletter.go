package handlers

import (
	"strconv"
	"strings"

	"consultd/states"
)

// maxSubject is how much of an unreadable subject a dead letter repeats.
const maxSubject = 256

// DeadLetter is the message that refers to an entry that can never be decided: where it is in the log and why, never what
// it says. Its channel is a marker that MessageSubject turns into consult.dead.{code}.
func (c *Codec) DeadLetter(e states.Entry, code, detail string) states.Message {
	code = deadCode(code)
	id := "dead." + string(e.Lane) + "." + strconv.FormatUint(e.Seq, 10)
	if e.Subject == "" { // a message that a sink refused: its entry may have a letter of its own
		id += "." + deadToken(code)
	}
	o := object{b: make([]byte, 0, 256)}
	o.text("id", id)
	o.text("lane", string(e.Lane))
	o.key("seq")
	o.b = strconv.AppendUint(o.b, e.Seq, 10)
	o.text("subject", strings.ToValidUTF8(e.Subject[:min(len(e.Subject), maxSubject)], ""))
	o.text("code", code)
	o.text("detail", detail)
	if !e.At.IsZero() {
		o.time("at", e.At)
	}
	if actor := e.Header[HeaderActor]; actor != "" {
		o.text("actor", surrogate(actor))
	}
	return states.Message{ID: id, Channel: markDead + deadToken(code), Payload: append(o.b, '}')}
}

// deadEffect is the dead letter of an effect that cannot be written.
func deadEffect(e *states.Effect, why error) states.Message {
	const code = "UNENCODABLE"
	o := object{b: make([]byte, 0, 256)}
	o.text("id", "dead."+e.ID)
	o.text("effect", e.ID)
	o.text("code", code)
	o.text("detail", string(e.Kind)+" "+e.Type+": "+why.Error())
	o.time("at", e.At)
	return states.Message{ID: "dead." + e.ID, Channel: markDead + deadToken(code), Payload: append(o.b, '}')}
}

// deadCode is a code as it may stand in a subject.
func deadCode(code string) string {
	if !Identifier(code) {
		return "UNREADABLE"
	}
	return strings.ToUpper(code)
}
