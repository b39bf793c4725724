package pubnub

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// The header in front of what PubNub's crypto modules encrypt: sentinel, version, id of the algorithm, length of its
// metadata, metadata. The algorithm here is the only one that stock clients write today: AES-256-CBC, metadata = IV.
const (
	sentinel      = "PNED"
	headerVersion = 1
	cbcID         = "ACRH"
	headerLength  = len(sentinel) + 1 + len(cbcID) + 1
)

// legacyIV is what clients use that were told not to use a random one.
const legacyIV = "0123456789012345"

// ErrUndecipherable says that none of the keys opens a message, or that what comes out is no JSON.
var ErrUndecipherable = errors.New("decrypt message: no key fits")

// KeyRing holds the cipher keys shared with the apps: the current one, which encrypts, and older ones, which still decrypt.
// It is safe for concurrent use and prints redacted. A nil KeyRing has no keys.
type KeyRing struct{ keys []ringKey }

type ringKey struct{ cbc, legacy cipher.Block }

// NewKeyRing makes a ring of the current cipher key and the previous ones, newest first. No key may be empty.
func NewKeyRing(current string, previous ...string) (*KeyRing, error) {
	ring := &KeyRing{}
	for i, key := range append([]string{current}, previous...) {
		if key == "" {
			return nil, fmt.Errorf("make key ring: cipher key %d is empty", i)
		}
		sum := sha256.Sum256([]byte(key))
		cbc, err := aes.NewCipher(sum[:])
		if err != nil {
			return nil, errors.New("make key ring: cipher key is unusable")
		}
		// The legacy key is half of the hash, spelt out in hex: 32 characters taken as 32 bytes.
		legacy, err := aes.NewCipher([]byte(hex.EncodeToString(sum[:])[:32]))
		if err != nil {
			return nil, errors.New("make key ring: cipher key is unusable")
		}
		ring.keys = append(ring.keys, ringKey{cbc, legacy})
	}
	return ring, nil
}

// Encrypt gives the JSON string (base64 inside) that clients with PubNub's aesCbcCryptoModule and the current key decrypt
// to plain. It fails when plain is no JSON or there is no key.
func (r *KeyRing) Encrypt(plain []byte) ([]byte, error) {
	text, err := r.encrypt(plain)
	if err != nil {
		return nil, err
	}
	return json.Marshal(text)
}

func (r *KeyRing) encrypt(plain []byte) (string, error) {
	if r == nil || len(r.keys) == 0 {
		return "", errors.New("encrypt message: no cipher key is configured")
	}
	if !json.Valid(plain) {
		return "", errors.New("encrypt message: it is not JSON")
	}
	padding := aes.BlockSize - len(plain)%aes.BlockSize
	out := make([]byte, headerLength+aes.BlockSize, headerLength+aes.BlockSize+len(plain)+padding)
	copy(out, sentinel)
	out[len(sentinel)] = headerVersion
	copy(out[len(sentinel)+1:], cbcID)
	out[headerLength-1] = aes.BlockSize
	iv := out[headerLength:]
	if _, err := rand.Read(iv); err != nil {
		return "", fmt.Errorf("encrypt message: %w", err)
	}
	out = append(out, plain...)
	out = append(out, bytes.Repeat([]byte{byte(padding)}, padding)...)
	body := out[headerLength+aes.BlockSize:]
	cipher.NewCBCEncrypter(r.keys[0].cbc, iv).CryptBlocks(body, body)
	return base64.StdEncoding.EncodeToString(out), nil
}

// Decrypt opens a payload as it was published on a channel. What is no ciphertext is given back as it is, encrypted false.
// A payload that is ciphertext and cannot be opened is ErrUndecipherable, encrypted true. CBC protects no integrity: that
// the plaintext is JSON is all that is known about it. The channel does not matter to this format.
func (r *KeyRing) Decrypt(_ string, payload []byte) (plain []byte, encrypted bool, err error) {
	trimmed := bytes.TrimSpace(payload)
	if len(trimmed) < 2 || trimmed[0] != '"' {
		return payload, false, nil
	}
	var text string
	if err := json.Unmarshal(trimmed, &text); err != nil {
		return payload, false, nil
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(data) == 0 {
		return payload, false, nil
	}
	if bytes.HasPrefix(data, []byte(sentinel)) {
		plain, err = r.openCBC(data)
		return plain, true, err
	}
	if len(data)%aes.BlockSize != 0 {
		return payload, false, nil
	}
	plain, err = r.openLegacy(data)
	return plain, true, err
}

// openCBC takes header and ciphertext. Whatever is wrong with them, the error is the same.
func (r *KeyRing) openCBC(data []byte) ([]byte, error) {
	if len(data) < headerLength+2*aes.BlockSize || data[len(sentinel)] != headerVersion ||
		string(data[len(sentinel)+1:headerLength-1]) != cbcID || data[headerLength-1] != aes.BlockSize {
		return nil, ErrUndecipherable
	}
	iv, body := data[headerLength:headerLength+aes.BlockSize], data[headerLength+aes.BlockSize:]
	for _, key := range r.all() {
		if plain, ok := open(key.cbc, iv, body); ok {
			return plain, nil
		}
	}
	return nil, ErrUndecipherable
}

// openLegacy takes ciphertext without a header: behind its IV, or with the fixed IV.
func (r *KeyRing) openLegacy(data []byte) ([]byte, error) {
	for _, key := range r.all() {
		if plain, ok := open(key.legacy, data[:aes.BlockSize], data[aes.BlockSize:]); ok {
			return plain, nil
		}
		if plain, ok := open(key.legacy, []byte(legacyIV), data); ok {
			return plain, nil
		}
	}
	return nil, ErrUndecipherable
}

func (r *KeyRing) all() []ringKey {
	if r == nil {
		return nil
	}
	return r.keys
}

// open decrypts and accepts only JSON: a wrong key passes the padding check once in 250 times.
func open(block cipher.Block, iv, body []byte) ([]byte, bool) {
	if len(body) == 0 || len(body)%aes.BlockSize != 0 {
		return nil, false
	}
	plain := make([]byte, len(body))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, body)
	padding := int(plain[len(plain)-1])
	if padding == 0 || padding > aes.BlockSize {
		return nil, false
	}
	for _, b := range plain[len(plain)-padding:] {
		if int(b) != padding {
			return nil, false
		}
	}
	plain = plain[:len(plain)-padding]
	return plain, json.Valid(plain)
}

// Format redacts under every verb of package fmt.
func (r *KeyRing) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalJSON redacts.
func (r *KeyRing) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
