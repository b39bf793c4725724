package pubnub

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// defaultPresenceTimeout is the service's, in seconds, for clients that name none.
const defaultPresenceTimeout = 300

// presence knows who is on which channel. A user comes by subscribing or by heartbeat, stays while a poll is held, and
// goes by leave or by silence. Each change is announced on the -pnpres channel; interval events are never sent.
type presence struct {
	channels map[string]map[string]*occupant // channel, user id
	states   map[string]map[string]json.RawMessage
}

type occupant struct {
	polls   int // being held now
	seen    time.Time
	timeout time.Duration
}

func (p *presence) reset() {
	*p = presence{channels: make(map[string]map[string]*occupant), states: make(map[string]map[string]json.RawMessage)}
}

// routePresence:
//
//	GET /v2/presence/sub-key/{sub}/channel/{channels}/heartbeat | leave
//	GET /v2/presence/sub-key/{sub}[/channel/{channels}]                   here-now; the Go SDK writes sub_key
//	GET /v2/presence/sub-key/{sub}/uuid/{user}                            where-now
//	GET /v2/presence/sub-key/{sub}/channel/{channels}/uuid/{user}[/data]  state
func routePresence(c *call) handler {
	p := c.segments
	if len(p) < 4 || p[0] != "v2" || p[1] != "presence" || (p[2] != "sub-key" && p[2] != "sub_key") {
		return nil
	}
	c.family = "presence"
	onChannel := len(p) >= 6 && p[4] == "channel"
	if onChannel {
		c.channels = splitNames(p[5])
	}
	switch {
	case onChannel && len(p) == 7 && p[6] == "heartbeat":
		c.op = "heartbeat"
	case onChannel && len(p) == 7 && p[6] == "leave":
		c.op = "leave"
	case len(p) == 4, onChannel && len(p) == 6:
		c.op = "here-now"
	case len(p) == 6 && p[4] == "uuid":
		c.op = "where-now"
	case onChannel && len(p) == 8 && p[6] == "uuid":
		c.op = "get-state"
	case onChannel && len(p) == 9 && p[6] == "uuid" && p[8] == "data":
		c.op = "set-state"
	default:
		return nil
	}
	return (*Server).presenceCall
}

func (s *Server) presenceCall(c *call) answer {
	if refused := s.subscribeKey(c.segments[3]); refused != nil {
		return *refused
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	channels := s.present(c.channels, c.groupNames())
	switch c.op {
	case "heartbeat":
		timeout := c.presenceTimeout()
		for _, channel := range channels {
			s.join(channel, c.uuid(), timeout, 0)
		}
		if !s.joinState(c, channels) {
			return refusePresence("Invalid JSON specified.")
		}
		return reply(http.StatusOK, object{"status": 200, "message": "OK", "service": "Presence"})
	case "leave":
		for _, channel := range channels {
			s.depart(channel, c.uuid(), "leave")
		}
		return reply(http.StatusOK, object{"status": 200, "message": "OK", "action": "leave", "service": "Presence"})
	case "here-now":
		return s.hereNow(c, channels)
	case "where-now":
		return s.whereNow(unescape(c.segments[5]))
	case "set-state":
		return s.setState(c, channels)
	default:
		return s.getState(c, channels)
	}
}

func refusePresence(message string) answer {
	return reply(http.StatusBadRequest, object{"status": 400, "error": 1, "message": message, "service": "Presence"})
}

// present are the channels on which a request makes its user present: its own and those of its groups, no -pnpres names.
func (s *Server) present(channels, groups []string) []string {
	all := append(slices.Clone(channels), s.groups.resolve(groups)...)
	return unique(slices.DeleteFunc(all, func(name string) bool { return strings.HasSuffix(name, presenceSuffix) }))
}

func (c *call) presenceTimeout() time.Duration {
	seconds, err := strconv.Atoi(c.query.Get("heartbeat"))
	if err != nil || seconds <= 0 {
		seconds = defaultPresenceTimeout
	}
	return time.Duration(seconds) * time.Second
}

// presenceSubscribed makes the user of a subscribe request present, and keeps him so until the returned function is called.
func (s *Server) presenceSubscribed(c *call, groups []string) (ending func()) {
	user := c.uuid()
	channels := s.present(c.channels, groups)
	for _, channel := range channels {
		s.join(channel, user, c.presenceTimeout(), 1)
	}
	s.joinState(c, channels)
	return func() {
		for _, channel := range channels {
			// A leave meanwhile has removed him: the end of his poll must not bring him back.
			if o := s.presence.channels[channel][user]; o != nil {
				o.polls = max(0, o.polls-1)
				o.seen = s.cfg.Clock()
			}
		}
	}
}

func (s *Server) join(channel, user string, timeout time.Duration, polls int) {
	if user == "" {
		return
	}
	users := s.presence.channels[channel]
	if users == nil {
		users = make(map[string]*occupant)
		s.presence.channels[channel] = users
	}
	o := users[user]
	if o == nil {
		o = &occupant{}
		users[user] = o
		defer s.announce(channel, user, "join", nil)
	}
	o.polls += polls
	o.seen, o.timeout = s.cfg.Clock(), timeout
}

func (s *Server) depart(channel, user, action string) {
	if s.presence.channels[channel][user] == nil {
		return
	}
	delete(s.presence.channels[channel], user)
	delete(s.presence.states[channel], user)
	if len(s.presence.channels[channel]) == 0 {
		delete(s.presence.channels, channel)
		delete(s.presence.states, channel)
	}
	s.announce(channel, user, action, nil)
}

func (s *Server) presenceTimeouts() {
	now := s.cfg.Clock()
	for channel, users := range s.presence.channels {
		for user, o := range users {
			if o.polls == 0 && now.Sub(o.seen) > o.timeout {
				s.depart(channel, user, "timeout")
			}
		}
	}
}

func (s *Server) announce(channel, user, action string, state json.RawMessage) {
	event := object{"action": action, "timestamp": s.cfg.Clock().Unix(), "uuid": user, "occupancy": len(s.presence.channels[channel])}
	if state != nil {
		event["data"] = state
	}
	payload, err := encode(event)
	if err != nil {
		return // state was checked to be JSON
	}
	s.add(&Message{Channel: channel + presenceSuffix, Kind: KindPresence, Payload: payload, live: true})
}

// joinState takes the state parameter of heartbeats and subscribes, a JSON object of states by channel; false when it is
// no such thing.
func (s *Server) joinState(c *call, channels []string) bool {
	text := c.query.Get("state")
	if text == "" || c.uuid() == "" {
		return true
	}
	var states map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &states); err != nil {
		return false
	}
	for _, channel := range channels {
		if state, ok := states[channel]; ok {
			s.keepState(channel, c.uuid(), state)
		}
	}
	return true
}

func (s *Server) keepState(channel, user string, state json.RawMessage) {
	if s.presence.states[channel] == nil {
		s.presence.states[channel] = make(map[string]json.RawMessage)
	}
	if string(s.presence.states[channel][user]) != string(state) {
		s.presence.states[channel][user] = state
		s.announce(channel, user, "state-change", state)
	}
}

func (s *Server) hereNow(c *call, channels []string) answer {
	describe := func(channel string) object {
		users := make([]any, 0)
		names := make([]string, 0, len(s.presence.channels[channel]))
		for user := range s.presence.channels[channel] {
			names = append(names, user)
		}
		slices.Sort(names)
		for _, user := range names {
			if !c.flag("state") {
				users = append(users, user)
				continue
			}
			one := object{"uuid": user}
			if state := s.presence.states[channel][user]; state != nil {
				one["state"] = state
			}
			users = append(users, one)
		}
		found := object{"occupancy": len(names)}
		if !c.flag("disable_uuids", "disable-uuids") {
			found["uuids"] = users
		}
		return found
	}
	if len(c.channels) == 1 && len(c.groupNames()) == 0 {
		body := describe(c.channels[0])
		body["status"], body["message"], body["service"] = 200, "OK", "Presence"
		return reply(http.StatusOK, body)
	}
	if len(c.segments) == 4 {
		channels = nil
		for channel := range s.presence.channels {
			channels = append(channels, channel)
		}
	}
	found, total := object{}, 0
	for _, channel := range channels {
		if n := len(s.presence.channels[channel]); n > 0 {
			found[channel] = describe(channel)
			total += n
		}
	}
	return reply(http.StatusOK, object{
		"status": 200, "message": "OK", "service": "Presence",
		"payload": object{"channels": found, "total_channels": len(found), "total_occupancy": total},
	})
}

func (s *Server) whereNow(user string) answer {
	channels := make([]string, 0)
	for channel, users := range s.presence.channels {
		if users[user] != nil {
			channels = append(channels, channel)
		}
	}
	slices.Sort(channels)
	return reply(http.StatusOK, object{"status": 200, "message": "OK", "service": "Presence", "payload": object{"channels": channels}})
}

func (s *Server) setState(c *call, channels []string) answer {
	state := json.RawMessage(c.query.Get("state"))
	var check map[string]any
	if err := json.Unmarshal(state, &check); err != nil {
		return refusePresence("Invalid JSON specified.")
	}
	user := unescape(c.segments[7])
	for _, channel := range channels {
		if s.presence.channels[channel][user] == nil {
			s.join(channel, user, defaultPresenceTimeout*time.Second, 0)
		}
		s.keepState(channel, user, state)
	}
	return reply(http.StatusOK, object{"status": 200, "message": "OK", "service": "Presence", "payload": state})
}

func (s *Server) getState(c *call, channels []string) answer {
	user := unescape(c.segments[7])
	states := object{}
	for _, channel := range channels {
		states[channel] = object{}
		if state := s.presence.states[channel][user]; state != nil {
			states[channel] = state
		}
	}
	body := object{"status": 200, "message": "OK", "service": "Presence", "uuid": user}
	if len(channels) == 1 {
		body["channel"], body["payload"] = channels[0], states[channels[0]]
	} else {
		body["payload"] = object{"channels": states}
	}
	return reply(http.StatusOK, body)
}
