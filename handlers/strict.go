package handlers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"
)

// maxDepth is how deep objects and lists may be nested in a message.
const maxDepth = 4

// maxNumber is how many characters a number may have: more than any count, duration or epoch needs, and too few to make
// arithmetic on it expensive.
const maxNumber = 24

// parseStrict reads one JSON object and nothing after it. What encoding/json would silently mend or choose between
// (invalid UTF-8, a key given twice) is refused, because two readers of the same bytes must not see two messages.
func parseStrict(data []byte) (map[string]any, *Refused) {
	if !utf8.Valid(data) {
		return nil, refuse(CodeInvalidUTF8, "message: is not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	first, err := dec.Token()
	if err != nil {
		return nil, notJSON(dec)
	}
	if first != json.Delim('{') {
		return nil, refuse(CodeNotJSON, "message: must be an object")
	}
	object, refused := parseObject(dec, 1)
	if refused != nil {
		return nil, refused
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, refuse(CodeNotJSON, "message: has something after the object")
	}
	return object, nil
}

func parseObject(dec *json.Decoder, depth int) (map[string]any, *Refused) {
	object := make(map[string]any, 12)
	for dec.More() {
		token, err := dec.Token()
		key, isKey := token.(string)
		if err != nil || !isKey {
			return nil, notJSON(dec)
		}
		value, refused := parseValue(dec, depth)
		if refused != nil {
			return nil, refused
		}
		if _, twice := object[key]; twice {
			return nil, refuse(CodeDuplicateKey, "message: has a field twice")
		}
		object[key] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, notJSON(dec)
	}
	return object, nil
}

func parseArray(dec *json.Decoder, depth int) ([]any, *Refused) {
	items := []any{}
	for dec.More() {
		value, refused := parseValue(dec, depth)
		if refused != nil {
			return nil, refused
		}
		items = append(items, value)
	}
	if _, err := dec.Token(); err != nil {
		return nil, notJSON(dec)
	}
	return items, nil
}

func parseValue(dec *json.Decoder, depth int) (any, *Refused) {
	token, err := dec.Token()
	if err != nil {
		return nil, notJSON(dec)
	}
	switch v := token.(type) {
	case json.Delim:
		if depth == maxDepth {
			return nil, refuse(CodeTooDeep, fmt.Sprintf("message: is nested deeper than %d levels", maxDepth))
		}
		if v == '{' {
			return parseObject(dec, depth+1)
		}
		return parseArray(dec, depth+1)
	case json.Number:
		return parseNumber(string(v))
	default:
		return token, nil
	}
}

// parseNumber makes a number of ordinary size: the validator computes with big fractions, which an exponent of a few
// digits could otherwise blow up to gigabytes.
func parseNumber(s string) (any, *Refused) {
	if len(s) <= maxNumber {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n, nil
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil && f < 1e15 && f > -1e15 {
			return f, nil
		}
	}
	return nil, refuse(CodeNotJSON, "message: has a number that is too large or too long")
}

func notJSON(dec *json.Decoder) *Refused {
	return refuse(CodeNotJSON, fmt.Sprintf("message: is not JSON at byte %d", dec.InputOffset()))
}
