package pubnub_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pubnub/go/v7/crypto"
	"pgregory.net/rapid"

	"consultd/handlers/pubnub"
)

func plaintexts() []string {
	return []string{`{}`, `"x"`, `7`, `{"action":"PATIENT_CHECKED_IN","note":"Müller 😀 漢字 \ud83d\ude00"}`, `{"long":"` + strings.Repeat("ä", 9000) + `"}`, `[1,2,3,4,5,67]`}
}

func unquote(t *testing.T, payload []byte) []byte {
	t.Helper()
	var text string
	if err := json.Unmarshal(payload, &text); err != nil {
		t.Fatal(err)
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func quote(data []byte) []byte {
	quoted, _ := json.Marshal(base64.StdEncoding.EncodeToString(data))
	return quoted
}

func TestKeyRingAndSDKReadEachOther(t *testing.T) {
	cbc, err := crypto.NewAesCbcCryptoModule(cipherKey, true)
	if err != nil {
		t.Fatal(err)
	}
	legacy, err := crypto.NewLegacyCryptoModule(cipherKey, true)
	if err != nil {
		t.Fatal(err)
	}
	fixedIV, err := crypto.NewLegacyCryptoModule(cipherKey, false)
	if err != nil {
		t.Fatal(err)
	}
	older := ring(t, "newer key", "another", cipherKey)
	for _, plain := range plaintexts() {
		payload, err := ring(t, cipherKey).Encrypt([]byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		got, err := cbc.Decrypt(unquote(t, payload))
		if err != nil || string(got) != plain {
			t.Errorf("SDK reads %q, %v; want %q", got, err, plain)
		}
		for name, module := range map[string]crypto.CryptoModule{"ACRH": cbc, "legacy": legacy, "legacy with fixed IV": fixedIV} {
			data, err := module.Encrypt([]byte(plain))
			if err != nil {
				t.Fatal(err)
			}
			for who, r := range map[string]*pubnub.KeyRing{"current": ring(t, cipherKey), "older": older} {
				got, encrypted, err := r.Decrypt(room, quote(data))
				if err != nil || !encrypted || string(got) != plain {
					t.Errorf("%s by %s key: %q, %v, %v; want %q", name, who, got, encrypted, err, plain)
				}
			}
		}
	}
}

func TestTheCurrentKeyEncrypts(t *testing.T) {
	payload, err := ring(t, "new", "old").Encrypt([]byte(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ring(t, "new").Decrypt(room, payload); err != nil {
		t.Error(err)
	}
	if _, encrypted, err := ring(t, "old").Decrypt(room, payload); !errors.Is(err, pubnub.ErrUndecipherable) || !encrypted {
		t.Errorf("%v, %v", encrypted, err)
	}
}

func TestWhatIsNoCiphertextIsGivenBack(t *testing.T) {
	for _, payload := range []string{`{}`, `null`, `7`, ``, `"`, `"hello there"`, `""`, `"aGVsbG8="`, ` {"a":"UE5FRA=="}`, `["UE5FRA=="]`} {
		for _, r := range []*pubnub.KeyRing{nil, ring(t, cipherKey)} {
			plain, encrypted, err := r.Decrypt(room, []byte(payload))
			if string(plain) != payload || encrypted || err != nil {
				t.Errorf("%q: %q, %v, %v", payload, plain, encrypted, err)
			}
		}
	}
}

func TestDamagedCiphertextIsRefused(t *testing.T) {
	r := ring(t, cipherKey)
	payload, err := r.Encrypt([]byte(`{"dose":"10 mg"}`))
	if err != nil {
		t.Fatal(err)
	}
	good := unquote(t, payload)
	for n := 4; n < len(good); n++ {
		if _, encrypted, err := r.Decrypt(room, quote(good[:n])); !errors.Is(err, pubnub.ErrUndecipherable) || !encrypted {
			t.Errorf("cut at %d: %v, %v", n, encrypted, err)
		}
	}
	for n := 4; n < 10; n++ { // version, algorithm, length of the IV
		bad := bytes.Clone(good)
		bad[n] ^= 0x81
		if _, encrypted, err := r.Decrypt(room, quote(bad)); !errors.Is(err, pubnub.ErrUndecipherable) || !encrypted {
			t.Errorf("header byte %d: %v, %v", n, encrypted, err)
		}
	}
	if _, encrypted, err := (*pubnub.KeyRing)(nil).Decrypt(room, payload); !errors.Is(err, pubnub.ErrUndecipherable) || !encrypted {
		t.Errorf("without keys: %v, %v", encrypted, err)
	}
}

// One ciphertext in 250 passes the padding check of a wrong key: JSON has to tell them apart.
func TestAWrongKeyIsNeverBelieved(t *testing.T) {
	right, wrong := ring(t, cipherKey), ring(t, "wrong", "wrong too")
	module, err := crypto.NewAesCbcCryptoModule("wrong", true)
	if err != nil {
		t.Fatal(err)
	}
	fooled := 0
	for range 5000 {
		payload, err := right.Encrypt([]byte(`{"action":"PATIENT_LEFT"}`))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := module.Decrypt(unquote(t, payload)); err == nil {
			fooled++
		}
		if plain, _, err := wrong.Decrypt(room, payload); err == nil {
			t.Fatalf("believed %q", plain)
		}
	}
	if fooled == 0 {
		t.Error("the padding check alone was never fooled: the test shows nothing")
	}
}

func TestAnyPayloadIsSurvived(t *testing.T) {
	r := ring(t, cipherKey)
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "data")
		if rapid.Bool().Draw(t, "header") {
			data = append([]byte("PNED\x01ACRH\x10"), data...)
		}
		plain, _, err := r.Decrypt(room, quote(data))
		if err == nil && !json.Valid(plain) {
			t.Fatalf("believed %q", plain)
		}
	})
}

func TestOnlyJSONIsEncryptedAndOnlyWithAKey(t *testing.T) {
	if _, err := ring(t, cipherKey).Encrypt([]byte("secret text")); err == nil || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
	if _, err := (*pubnub.KeyRing)(nil).Encrypt([]byte("{}")); err == nil {
		t.Error("encrypted without a key")
	}
	if _, err := pubnub.NewKeyRing("a", ""); err == nil {
		t.Error("an empty key was taken")
	}
}

func TestSecretsPrintRedacted(t *testing.T) {
	a := pubnub.Account{Endpoint: "http://x", PublishKey: "pub-key", SubscribeKey: "sub-key", SecretKey: "sec-key", User: "u"}
	for _, v := range []any{ring(t, cipherKey), a, &a, struct{ Account pubnub.Account }{a}} {
		text := fmt.Sprintf("%v %+v %#v %s %q %d", v, v, v, v, v, v)
		encoded, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		text += string(encoded)
		if !strings.Contains(text, "[redacted]") || strings.Contains(text, "-key") || strings.Contains(text, "aes") {
			t.Errorf("%T prints %s", v, text)
		}
	}
}
