package pubnub

import (
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const (
	maxMessage = 32 << 10
	maxSignal  = 64
)

// routePublish:
//
//	GET  /publish/{pub}/{sub}/0/{channel}/0/{json}
//	POST /publish/{pub}/{sub}/0/{channel}/0         body = json, deflated by the JavaScript SDK
//	GET  /signal/{pub}/{sub}/0/{channel}/0/{json}
//
// A fire is a publish with store=0 and norep=true.
func routePublish(c *call) handler {
	kind := c.segments[0]
	if (kind != "publish" && kind != "signal") || len(c.segments) < 6 {
		return nil
	}
	c.family, c.op = kind, kind
	c.channels = []string{unescape(c.segments[4])}
	if kind == "publish" && c.query.Get("store") == "0" && c.flag("norep") {
		c.op = "fire"
	}
	return (*Server).publish
}

var customType = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{2,49}$`)

func (s *Server) publish(c *call) answer {
	if refused := s.subscribeKey(c.segments[2]); refused != nil {
		return *refused
	}
	m, refusal := s.readMessage(c)
	notLive := refusal == "" && s.takeFault(c, FaultNotLive) != nil
	s.mu.Lock()
	defer s.mu.Unlock()
	if refusal != "" {
		return reply(http.StatusBadRequest, []any{0, refusal, strconv.FormatInt(s.tick(), 10)})
	}
	if notLive {
		m.live = false
	}
	s.add(m)
	return reply(http.StatusOK, []any{1, "Sent", strconv.FormatInt(m.Timetoken, 10)})
}

// readMessage checks a publish and gives the reason when it is refused. "Invalid Key", "Wildcard maximum depth exceeded",
// "Message Too Large" and "Signal size too large" are the service's words, the others are assumed.
func (s *Server) readMessage(c *call) (*Message, string) {
	if unescape(c.segments[1]) != s.cfg.PublishKey {
		return nil, "Invalid Key"
	}
	channel := c.channels[0]
	if !validName(channel) || strings.HasSuffix(channel, presenceSuffix) {
		return nil, "Invalid Channel"
	}
	if s.cfg.StrictWildcards && strings.Count(channel, ".") > 2 {
		return nil, "Wildcard maximum depth exceeded"
	}
	if len(c.uuid()) > maxName {
		return nil, "Invalid UUID"
	}
	payload, refusal := c.payload()
	if refusal != "" {
		return nil, refusal
	}
	m := &Message{
		Channel: channel, Kind: KindMessage, UUID: c.uuid(), Payload: payload, Method: c.http.Method,
		Stored: c.query.Get("store") != "0", live: !c.flag("norep"), CustomType: c.query.Get("custom_message_type"),
	}
	switch {
	case c.op == "fire":
		m.Kind = KindFire
	case c.family == "signal":
		m.Kind, m.Stored = KindSignal, false
	}
	if m.CustomType != "" && !customType.MatchString(m.CustomType) {
		return nil, "Invalid custom_message_type"
	}
	if meta := c.query.Get("meta"); meta != "" {
		if !json.Valid([]byte(meta)) {
			return nil, "Invalid Meta"
		}
		m.Meta = json.RawMessage(meta)
	}
	if n, err := strconv.Atoi(c.query.Get("seqn")); err == nil {
		m.Sequence = n
	}
	if hours, err := strconv.Atoi(c.query.Get("ttl")); err == nil && hours > 0 {
		m.expires = s.cfg.Clock().Add(time.Duration(hours) * time.Hour)
	}
	return m, ""
}

func (c *call) payload() (json.RawMessage, string) {
	var payload []byte
	if c.http.Method == http.MethodPost {
		body, err := c.inflated()
		switch {
		case errors.Is(err, errTooLarge):
			return nil, "Message Too Large"
		case err != nil:
			return nil, "Invalid Body"
		}
		payload = body
	} else if len(c.segments) >= 7 {
		payload = []byte(unescape(strings.Join(c.segments[6:], "/")))
	}
	switch {
	case c.family == "signal" && len(payload) > maxSignal:
		return nil, "Signal size too large"
	case len(payload) > maxMessage:
		return nil, "Message Too Large"
	case !json.Valid(payload):
		return nil, "Invalid JSON"
	}
	return payload, ""
}
