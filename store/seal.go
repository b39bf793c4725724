package store

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// Sealer encrypts what is stored. What was sealed with one aad (additional authenticated data: where it is stored) does
// not open with another.
type Sealer interface {
	Seal(plain, aad []byte) ([]byte, error)
	Open(sealed, aad []byte) ([]byte, error)
}

// Corrupt means that something stored cannot be read: damaged, moved, sealed with a key that the keyset does not hold,
// or written by a newer release. It says what it is, never what is in it.
type Corrupt struct {
	Kind string // e.g. "visit record"
	Why  string
}

func (e *Corrupt) Error() string { return e.Kind + " unreadable: " + e.Why }

const whyUnsealed = "it does not open; check that the keyset holds every key that was ever used"

type tinkSealer struct{ primitive tink.AEAD }

// NewSealer takes a Tink keyset in JSON, in clear. The primary key seals; every key of the keyset opens, which is how
// keys are rotated: add one, make it primary, keep the old one for as long as anything sealed with it is stored.
func NewSealer(keysetJSON []byte) (Sealer, error) {
	// The causes are dropped: a parser's complaint may quote the key.
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(keysetJSON)))
	if err != nil {
		return nil, errors.New("sealing keyset: not a Tink keyset in JSON; make one with GenerateKeyset or tinkey (AES256_GCM)")
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return nil, errors.New("sealing keyset: its keys are not for authenticated encryption (AEAD); use the template AES256_GCM")
	}
	return tinkSealer{primitive}, nil
}

// GenerateKeyset makes a keyset with one new AES-256-GCM key, in JSON and in clear: a secret.
func GenerateKeyset() ([]byte, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("generate keyset: %w", err)
	}
	var out bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&out)); err != nil {
		return nil, fmt.Errorf("write keyset: %w", err)
	}
	return out.Bytes(), nil
}

func (t tinkSealer) Seal(plain, aad []byte) ([]byte, error) { return t.primitive.Encrypt(plain, aad) }

func (t tinkSealer) Open(sealed, aad []byte) ([]byte, error) { return t.primitive.Decrypt(sealed, aad) }

// place is the aad of what is stored under a key at one version or log position: moved elsewhere, it does not open.
func place(key string, version []byte) []byte {
	return append(append([]byte(key), 0), version...)
}
