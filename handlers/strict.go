package handlers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
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
//
// encoding/json judges the syntax; what is left is a walk over bytes that are known to be well-formed, which costs a
// fraction of its token reader.
func parseStrict(data []byte) (map[string]any, *Refused) {
	if !utf8.Valid(data) {
		return nil, refuse(CodeInvalidUTF8, "message: is not valid UTF-8")
	}
	if !json.Valid(data) {
		return nil, notJSON(data)
	}
	w := walker{data: data}
	if w.next() != '{' {
		return nil, refuse(CodeNotJSON, "message: must be an object")
	}
	object := w.object(1)
	if w.refused != nil {
		return nil, w.refused
	}
	return object, nil
}

// notJSON says where the syntax breaks. It gives no more of encoding/json's own words, which can quote the message.
func notJSON(data []byte) *Refused {
	var syntax *json.SyntaxError
	var ignored json.RawMessage
	if err := json.Unmarshal(data, &ignored); errors.As(err, &syntax) {
		return refuse(CodeNotJSON, fmt.Sprintf("message: is not one JSON object; the fault is at byte %d", syntax.Offset))
	}
	return refuse(CodeNotJSON, "message: is not one JSON object")
}

// walker reads well-formed JSON. The first refusal ends everything; what is returned after it is of no use.
type walker struct {
	data    []byte
	at      int
	refused *Refused
}

// next is the next byte that is not white space; it stays there.
func (w *walker) next() byte {
	for {
		switch c := w.data[w.at]; c {
		case ' ', '\t', '\r', '\n':
			w.at++
		default:
			return c
		}
	}
}

// object reads from { to }.
func (w *walker) object(depth int) map[string]any {
	object := make(map[string]any, 12)
	w.at++
	for w.next() != '}' {
		if w.data[w.at] == ',' {
			w.at++
			w.next()
		}
		key := w.text()
		w.next()
		w.at++ // the colon
		value := w.value(depth)
		if _, twice := object[key]; twice && w.refused == nil {
			w.refused = refuse(CodeDuplicateKey, "message: has a field twice")
		}
		if w.refused != nil {
			return nil
		}
		object[key] = value
	}
	w.at++
	return object
}

// list reads from [ to ].
func (w *walker) list(depth int) []any {
	items := []any{}
	w.at++
	for w.next() != ']' {
		if w.data[w.at] == ',' {
			w.at++
		}
		items = append(items, w.value(depth))
		if w.refused != nil {
			return nil
		}
	}
	w.at++
	return items
}

func (w *walker) value(depth int) any {
	switch c := w.next(); c {
	case '{', '[':
		if depth == maxDepth {
			w.refused = refuse(CodeTooDeep, fmt.Sprintf("message: is nested deeper than %d levels", maxDepth))
			return nil
		}
		if c == '{' {
			return w.object(depth + 1)
		}
		return w.list(depth + 1)
	case '"':
		return w.text()
	case 't':
		w.at += len("true")
		return true
	case 'f':
		w.at += len("false")
		return false
	case 'n':
		w.at += len("null")
		return nil
	default:
		return w.number()
	}
}

// text reads a string with its quotes.
func (w *walker) text() string {
	start := w.at + 1
	end := start + bytes.IndexByte(w.data[start:], '"')
	if bytes.IndexByte(w.data[start:end], '\\') < 0 {
		w.at = end + 1
		return string(w.data[start:end])
	}
	for end = start; w.data[end] != '"'; end++ {
		if w.data[end] == '\\' {
			end++
		}
	}
	w.at = end + 1
	var s string
	if err := json.Unmarshal(w.data[start-1:w.at], &s); err != nil {
		w.refused = refuse(CodeNotJSON, "message: has a text that is no JSON")
	}
	return s
}

// number makes a number of ordinary size: the validator computes with big fractions, which an exponent of a few digits
// could otherwise blow up to gigabytes.
func (w *walker) number() any {
	start := w.at
	for w.at < len(w.data) {
		if c := w.data[w.at]; (c < '0' || c > '9') && c != '-' && c != '+' && c != '.' && c != 'e' && c != 'E' {
			break
		}
		w.at++
	}
	if s := string(w.data[start:w.at]); len(s) <= maxNumber {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
		if f, err := strconv.ParseFloat(s, 64); err == nil && f < 1e15 && f > -1e15 {
			return f
		}
	}
	w.refused = refuse(CodeNotJSON, "message: has a number that is too large or too long")
	return nil
}
