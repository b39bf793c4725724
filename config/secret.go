package config

import (
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is a key, token or password. It prints as [redacted] in every verb and encoder; Reveal is the one way out, and a
// test lists its callers. In a file it is written as `file:/path` or `env:NAME`, or in clear.
//
// The text is behind a pointer, because package fmt prints unexported fields and %p without asking.
type Secret struct{ text *string }

// NewSecret wraps a value that must not be printed.
func NewSecret(text string) Secret { return Secret{&text} }

// Reveal returns the value. Only the code that hands it to its client may call it.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty says whether there is a value.
func (s Secret) Empty() bool { return s.Reveal() == "" }

// Format redacts under every verb and flag of package fmt.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String redacts.
func (s Secret) String() string { return redacted }

// GoString redacts.
func (s Secret) GoString() string { return redacted }

// MarshalText redacts, so that every text-based encoder does.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON redacts.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalYAML redacts.
func (s Secret) MarshalYAML() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// LogValue redacts for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
