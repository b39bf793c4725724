package states_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"consultd/states"
)

const secret = "Crushing chest pain"

// holder keeps the text where fmt may not call its methods.
type holder struct {
	Open   states.PHI
	hidden states.PHI
}

func TestFreeTextIsNeverPrinted(t *testing.T) {
	phi := states.NewPHI(secret)
	event := states.Event{Kind: states.EmergencyEscalation, Reason: phi}
	emergency := states.Escalation{ID: escalation, Reason: phi}
	values := map[string]any{
		"value": phi, "pointer": &phi, "slice": []states.PHI{phi}, "map": map[string]states.PHI{"reason": phi}, "key": map[states.PHI]int{phi: 1},
		"struct": holder{phi, phi}, "struct pointer": &holder{phi, phi}, "event": event, "escalation": emergency,
		"record":   states.Record{Escalation: &emergency},
		"decision": states.Decision{Effects: []states.Effect{{Escalation: &emergency}}},
	}
	check := func(what, printed string) {
		t.Helper()
		for _, part := range []string{secret, "chest", fmt.Sprintf("%x", "chest"), fmt.Sprintf("%X", "chest"), fmt.Sprint([]byte("chest"))[1:10]} {
			if strings.Contains(printed, part) {
				t.Errorf("%s prints %s", what, printed)
			}
		}
	}
	for name, v := range values {
		for verb := rune('A'); verb <= 'z'; verb++ {
			for _, flags := range []string{"", "+", "#", "-", " ", "0", "+#", "20", ".3", "[1]"} {
				format := "%" + flags + string(verb)
				check(name+" with "+format, fmt.Sprintf(format, v))
			}
		}
		check(name+" by Sprint", fmt.Sprint(v))
		check(name+" in an error", fmt.Errorf("something: %v", v).Error())
		if b, err := json.Marshal(v); err == nil {
			check(name+" as JSON", string(b))
		}
		if b, err := xml.Marshal(v); err == nil {
			check(name+" as XML", string(b))
		}
		var out bytes.Buffer
		if err := gob.NewEncoder(&out).Encode(v); err == nil {
			check(name+" as gob", out.String())
		}

		for what, handler := range map[string]slog.Handler{
			"slog text": slog.NewTextHandler(&out, nil),
			"slog JSON": slog.NewJSONHandler(&out, nil),
		} {
			out.Reset()
			slog.New(handler).Info("said", "value", v, slog.Any("again", v))
			check(name+" through "+what, out.String())
		}
		out.Reset()
		zl := zerolog.New(&out)
		zl.Info().Interface("value", v).Any("any", v).Str("str", fmt.Sprint(v)).Err(errors.New(fmt.Sprint(v))).Fields(map[string]any{"field": v}).Msgf("said %v", v)
		check(name+" through zerolog", out.String())
	}
}

func TestFreeTextHasOneWayOut(t *testing.T) {
	if phi := states.NewPHI(secret); phi.Reveal() != secret || phi.Empty() {
		t.Fatal("the text is lost")
	}
	if phi := states.NewPHI(""); phi.Reveal() != "" || !phi.Empty() || phi != (states.PHI{}) {
		t.Fatal("no text is not empty")
	}
	if got := fmt.Sprintf("%v %s", states.NewPHI(secret), states.PHI{}); got != "[redacted] [redacted]" {
		t.Fatalf("whether there is text at all is visible: %s", got)
	}
}
