package handlers

// Codes of refusals that happen before anything is decided. They are part of the subject of the dead letter, in lower case.
const (
	CodeNotInbound      = "NOT_INBOUND"      // a channel that the daemon only speaks on
	CodeUnknownChannel  = "UNKNOWN_CHANNEL"  // no known form of a name
	CodeBadIdentifier   = "BAD_IDENTIFIER"   // an id with dots, too long, or with other characters
	CodeObservedOnly    = "OBSERVED_ONLY"    // video signals and files: not for the daemon, and not an error
	CodeBadSource       = "BAD_SOURCE"       // a Consult-Source header that is not known, or not allowed here
	CodeActorMissing    = "ACTOR_MISSING"    // no Consult-Actor or no valid Consult-Role
	CodeTooLarge        = "TOO_LARGE"        // more than MaxMessage bytes
	CodePlaintext       = "PLAINTEXT"        // not encrypted where patient data travels
	CodeUndecryptable   = "UNDECRYPTABLE"    // encrypted with none of the known keys
	CodeInvalidUTF8     = "INVALID_UTF8"     //
	CodeNotJSON         = "NOT_JSON"         //
	CodeDuplicateKey    = "DUPLICATE_KEY"    //
	CodeTooDeep         = "TOO_DEEP"         //
	CodeUnknownAction   = "UNKNOWN_ACTION"   // an action that this channel does not have
	CodeSchema          = "SCHEMA"           // the message does not fit its schema
	CodeChannelMismatch = "CHANNEL_MISMATCH" // the message speaks of another provider or consultation than its channel
	CodeBadTimer        = "BAD_TIMER"        // a timer entry that names no timer of its partition
)

// Refused says that an entry can never become an event: it belongs to the dead letters, not to a retry. Detail names
// a field and a rule and says what to do; it never holds a value of the message.
type Refused struct {
	Code   string
	Detail string
	// Ignore says that nothing is wrong: the entry is none of the daemon's business and needs no dead letter.
	Ignore bool
}

// Error is code and detail.
func (r *Refused) Error() string { return "decode entry: " + r.Code + ": " + r.Detail }

// RefusalCode is the machine-readable reason.
func (r *Refused) RefusalCode() string { return r.Code }

// RefusalDetail says in a sentence what is wrong and what to do.
func (r *Refused) RefusalDetail() string { return r.Detail }

// Ignored is Ignore, for whoever knows the error by its methods only.
func (r *Refused) Ignored() bool { return r.Ignore }

func refuse(code, detail string) *Refused { return &Refused{Code: code, Detail: detail} }
