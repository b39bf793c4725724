package pubnub

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

const (
	maxPageOne  = 100 // messages per page of one channel
	maxPageMany = 25  // messages per page and channel of several channels
	maxChannels = 500
)

// routeHistory:
//
//	GET    /v2/history/sub-key/{sub}/channel/{channel}
//	GET    /v3/history/sub-key/{sub}/channel/{channels}
//	GET    /v3/history/sub-key/{sub}/message-counts/{channels}
//	DELETE /v3/history/sub-key/{sub}/channel/{channel}
func routeHistory(c *call) handler {
	p := c.segments
	if len(p) < 6 || p[1] != "history" || p[2] != "sub-key" {
		return nil
	}
	c.family = "history"
	c.channels = splitNames(p[5])
	switch {
	case p[0] == "v2" && p[4] == "channel":
		c.op = "history-v2"
		return (*Server).historyV2
	case p[0] == "v3" && p[4] == "message-counts":
		c.op = "counts"
		return (*Server).messageCounts
	case p[0] == "v3" && p[4] == "channel" && c.http.Method == http.MethodDelete:
		c.op = "delete"
		return (*Server).deleteMessages
	case p[0] == "v3" && p[4] == "channel":
		c.op = "fetch"
		return (*Server).fetch
	}
	return nil
}

func refuseHistory(status int, message string) answer {
	return reply(status, object{"status": status, "error": true, "error_message": message, "channels": object{}})
}

// historyPage is what start, end, reverse and a page size ask for.
type historyPage struct {
	start, end       int64
	hasStart, hasEnd bool
	reverse          bool
	size             int
}

func (c *call) page(sizeName string, size int) (p historyPage, badParameter string) {
	var err error
	if p.start, p.hasStart, err = c.timetoken("start"); err != nil {
		return p, "start"
	}
	if p.end, p.hasEnd, err = c.timetoken("end"); err != nil {
		return p, "end"
	}
	p.reverse, p.size = c.flag("reverse"), size
	if text := c.query.Get(sizeName); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return p, sizeName
		}
		if n > 0 {
			p.size = min(n, size)
		}
	}
	return p, ""
}

// of cuts the page out of a channel's messages (oldest first). Pages go back in time from start, or from now; with reverse
// forward from start, or from the beginning. start is exclusive, end inclusive; inside a page the oldest comes first.
func (p historyPage) of(all []*Message) (page []*Message, more bool) {
	var found []*Message
	for _, m := range all {
		tt := m.Timetoken
		if p.reverse {
			if p.hasStart && tt <= p.start || p.hasEnd && tt > p.end {
				continue
			}
		} else if p.hasStart && tt >= p.start || p.hasEnd && tt < p.end {
			continue
		}
		found = append(found, m)
	}
	if len(found) <= p.size {
		return found, false
	}
	if p.reverse {
		return found[:p.size], true
	}
	return found[len(found)-p.size:], true
}

func (s *Server) historyV2(c *call) answer {
	if refused := s.subscribeKey(c.segments[3]); refused != nil {
		return *refused
	}
	page, bad := c.page("count", maxPageOne)
	if bad != "" || len(c.channels) != 1 {
		return refuseHistory(http.StatusBadRequest, "Invalid Arguments: "+bad)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, _ := page.of(s.messages.history(c.channels[0], s.cfg.Clock()))
	timetoken := func(m *Message) any {
		if c.flag("string_message_token") {
			return strconv.FormatInt(m.Timetoken, 10)
		}
		return m.Timetoken
	}
	var first, last any = 0, 0
	items := make([]any, 0, len(found))
	for i, m := range found {
		if i == 0 {
			first = timetoken(m)
		}
		last = timetoken(m)
		if !c.flag("include_token") && !c.flag("include_meta") {
			items = append(items, m.Payload)
			continue
		}
		item := object{"message": m.Payload}
		if c.flag("include_token") {
			item["timetoken"] = timetoken(m)
		}
		if c.flag("include_meta") {
			item["meta"] = metaOrEmpty(m)
		}
		items = append(items, item)
	}
	return reply(http.StatusOK, []any{items, first, last})
}

func metaOrEmpty(m *Message) any {
	if m.Meta == nil {
		return ""
	}
	return m.Meta
}

func (s *Server) fetch(c *call) answer {
	if refused := s.subscribeKey(c.segments[3]); refused != nil {
		return *refused
	}
	size := maxPageOne
	if len(c.channels) > 1 {
		size = maxPageMany
	}
	page, bad := c.page("max", size)
	if bad == "" && (len(c.channels) == 0 || len(c.channels) > maxChannels) {
		bad = "channel"
	}
	if bad != "" {
		return refuseHistory(http.StatusBadRequest, "Invalid Arguments: "+bad)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	channels := make(map[string][]object)
	var next int64 // where the following page starts so that no channel skips anything
	for _, channel := range c.channels {
		found, more := page.of(s.messages.history(channel, s.cfg.Clock()))
		for _, m := range found {
			channels[channel] = append(channels[channel], c.historyItem(m))
		}
		switch {
		case !more:
		case page.reverse && (next == 0 || found[len(found)-1].Timetoken < next):
			next = found[len(found)-1].Timetoken
		case !page.reverse:
			next = max(next, found[0].Timetoken)
		}
	}
	body := object{"status": 200, "error": false, "error_message": "", "channels": channels}
	if next != 0 {
		start := strconv.FormatInt(next, 10)
		body["more"] = object{"url": c.path + "?start=" + start + "&max=" + strconv.Itoa(page.size), "start": start, "max": page.size}
	}
	return reply(http.StatusOK, body)
}

func (c *call) historyItem(m *Message) object {
	item := object{"message": m.Payload, "timetoken": strconv.FormatInt(m.Timetoken, 10)}
	if c.flag("include_uuid") {
		item["uuid"] = m.UUID
	}
	if c.flag("include_meta") {
		item["meta"] = metaOrEmpty(m)
	}
	if c.flag("include_message_type") {
		item["message_type"] = nil // null stands for a plain message; only those are stored
	}
	if c.flag("include_custom_message_type") && m.CustomType != "" {
		item["custom_message_type"] = m.CustomType
	}
	return item
}

// messageCounts counts the messages at or after each timetoken: one for all channels, or one per channel.
func (s *Server) messageCounts(c *call) answer {
	if refused := s.subscribeKey(c.segments[3]); refused != nil {
		return *refused
	}
	texts := slices.DeleteFunc(strings.Split(c.query.Get("channelsTimetoken"), ","), func(text string) bool { return text == "" })
	if len(texts) == 0 {
		texts = []string{c.query.Get("timetoken")}
	}
	if len(c.channels) == 0 || len(c.channels) > maxChannels || len(texts) != 1 && len(texts) != len(c.channels) {
		return refuseHistory(http.StatusBadRequest, "Invalid Arguments: channelsTimetoken")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := make(map[string]int)
	for i, channel := range c.channels {
		since, err := strconv.ParseInt(texts[min(i, len(texts)-1)], 10, 64)
		if err != nil {
			return refuseHistory(http.StatusBadRequest, "Invalid Arguments: timetoken")
		}
		counts[channel] = 0
		for _, m := range s.messages.history(channel, s.cfg.Clock()) {
			if m.Timetoken >= since {
				counts[channel]++
			}
		}
	}
	return reply(http.StatusOK, object{"status": 200, "error": false, "error_message": "", "channels": counts})
}

// deleteMessages removes (start, end] from history. The documentation contradicts itself on the ends; this fits its recipe
// for a single message, start = timetoken-1 and end = timetoken.
func (s *Server) deleteMessages(c *call) answer {
	if refused := s.subscribeKey(c.segments[3]); refused != nil {
		return *refused
	}
	page, bad := c.page("max", 0)
	if bad != "" || len(c.channels) != 1 {
		return refuseHistory(http.StatusBadRequest, "Invalid Arguments: "+bad)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.messages.channels[c.channels[0]] {
		if (!page.hasStart || m.Timetoken > page.start) && (!page.hasEnd || m.Timetoken <= page.end) {
			m.Deleted = true
		}
	}
	return reply(http.StatusOK, object{"status": 200, "error": false, "error_message": ""})
}
