package states

import (
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// PHI is free text about a patient. It prints as [redacted] in every verb and every encoder; Reveal is the one way out,
// and a test lists its callers. The text is behind a pointer because fmt asks no method where it may not (%p, and unexported
// fields): there it prints an address.
type PHI struct{ text *string }

// NewPHI wraps text that must not be printed.
func NewPHI(text string) PHI {
	if text == "" {
		return PHI{}
	}
	return PHI{&text}
}

// Reveal returns the text. Only the code that seals it for storage and the code that encrypts it for its audience may call it.
func (p PHI) Reveal() string {
	if p.text == nil {
		return ""
	}
	return *p.text
}

// Empty says whether there is any text.
func (p PHI) Empty() bool { return p.text == nil }

// Format redacts under every verb and flag of package fmt.
func (p PHI) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String redacts.
func (p PHI) String() string { return redacted }

// GoString redacts.
func (p PHI) GoString() string { return redacted }

// MarshalText redacts, so that every text-based encoder does.
func (p PHI) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON redacts.
func (p PHI) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue redacts for log/slog.
func (p PHI) LogValue() slog.Value { return slog.StringValue(redacted) }
