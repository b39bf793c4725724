package pubnub

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"time"
)

// Kinds of messages.
const (
	KindMessage  = "message"
	KindSignal   = "signal"
	KindFire     = "fire"     // reaches no subscriber and no history
	KindPresence = "presence" // made by the stand-in itself
)

// Message is something published, as it was received.
type Message struct {
	Channel   string          `json:"channel"`
	Timetoken int64           `json:"timetoken,string"` // 100 ns since 1970, unique
	Kind      string          `json:"kind"`
	UUID      string          `json:"uuid,omitempty"` // the publisher's claim
	Payload   json.RawMessage `json:"payload"`        // the whole JSON, push blocks included
	Meta      json.RawMessage `json:"meta,omitempty"`
	// CustomType is custom_message_type. Sequence is seqn, 0 when the client sent none.
	CustomType string `json:"custom_message_type,omitempty"`
	Sequence   int    `json:"sequence,omitempty"`
	// Method is GET or POST; empty for messages put in by Server.Publish.
	Method string `json:"method,omitempty"`
	Stored bool   `json:"stored"`
	// Deleted: history was told to forget it.
	Deleted bool `json:"deleted,omitempty"`

	region  int
	expires time.Time // zero: never
	live    bool      // goes to subscribers
	evicted bool
}

func (m *Message) size() int64 { return int64(len(m.Payload)+len(m.Meta)+len(m.Channel)) + 256 }

// messages holds what was published twice over: by channel for history and inspection, and by subscription name (channel
// or wildcard) for polls, where only the newest few count.
type messages struct {
	last     int64 // timetoken
	channels map[string][]*Message
	feeds    map[string][]*Message
	queue    []*Message // all kept ones, oldest first
	kept     int
	bytes    int64
	lost     int
}

func (ms *messages) reset() {
	*ms = messages{last: ms.last, channels: make(map[string][]*Message), feeds: make(map[string][]*Message)}
}

// tick gives the next timetoken, later than all before; mu is held.
func (s *Server) tick() int64 {
	s.messages.last = max(s.messages.last+1, s.cfg.Clock().UnixNano()/100)
	return s.messages.last
}

// add stamps and files a message and wakes its subscribers; mu is held.
func (s *Server) add(m *Message) {
	ms := &s.messages
	m.Timetoken, m.region = s.tick(), s.region
	if m.Kind != KindPresence {
		ms.keep(m, s.cfg)
	}
	if m.live {
		for _, name := range s.cfg.feeds(m.Channel) {
			ms.feeds[name] = dropOldest(append(ms.feeds[name], m), s.cfg.BufferSize)
			s.waiters.wake(name)
		}
		for _, group := range s.groups.of(m.Channel) {
			s.waiters.wakeGroup(group)
		}
	}
	s.signalChange()
}

func (ms *messages) keep(m *Message, cfg Config) {
	list := append(ms.channels[m.Channel], m)
	if len(list) > cfg.HistoryLimit {
		ms.evict(list[0])
		list = dropOldest(list, cfg.HistoryLimit)
	}
	ms.channels[m.Channel] = list
	ms.queue = append(ms.queue, m)
	ms.kept++
	ms.bytes += m.size()
	for ms.bytes > cfg.MemoryLimit && len(ms.queue) > 1 {
		oldest := ms.queue[0]
		ms.queue = dropOldest(ms.queue, len(ms.queue)-1)
		if oldest.evicted {
			continue
		}
		ms.evict(oldest)
		// The oldest of all is the oldest of its channel.
		if rest := dropOldest(ms.channels[oldest.Channel], len(ms.channels[oldest.Channel])-1); len(rest) > 0 {
			ms.channels[oldest.Channel] = rest
		} else {
			delete(ms.channels, oldest.Channel)
		}
	}
	if len(ms.queue) > 2*ms.kept+1000 {
		ms.queue = slices.DeleteFunc(ms.queue, func(m *Message) bool { return m.evicted })
	}
}

func (ms *messages) evict(m *Message) {
	m.evicted = true
	ms.kept--
	ms.bytes -= m.size()
}

// dropOldest cuts the list to its newest n.
func dropOldest(list []*Message, n int) []*Message {
	for len(list) > n {
		list[0] = nil
		list = list[1:]
	}
	return list
}

// sweep empties the feeds of what no poll may get any more.
func (ms *messages) sweep(cfg Config, now time.Time) {
	oldest := now.Add(-cfg.BufferAge).UnixNano() / 100
	for name, list := range ms.feeds {
		list = slices.DeleteFunc(list, func(m *Message) bool { return m.Timetoken < oldest || m.evicted })
		if len(list) == 0 {
			delete(ms.feeds, name)
		} else {
			ms.feeds[name] = list
		}
	}
}

// after gives what came on a subscription name after the timetoken and is not over age, oldest first.
func (ms *messages) after(name string, tt int64, cfg Config) []*Message {
	tt = max(tt, cfg.Clock().Add(-cfg.BufferAge).UnixNano()/100)
	list := ms.feeds[name]
	return list[sort.Search(len(list), func(i int) bool { return list[i].Timetoken > tt }):]
}

// history gives the stored, living messages of a channel, oldest first.
func (ms *messages) history(channel string, now time.Time) []*Message {
	var found []*Message
	for _, m := range ms.channels[channel] {
		if m.Stored && !m.Deleted && (m.expires.IsZero() || now.Before(m.expires)) {
			found = append(found, m)
		}
	}
	return found
}

// Published gives what clients (or Publish) sent to a channel, oldest first: messages, signals and fires, also those
// deleted from history or never stored. An empty channel name gives all channels.
func (s *Server) Published(channel string) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.published(channel)
}

func (s *Server) published(channel string) []Message {
	list := s.messages.channels[channel]
	if channel == "" {
		list = s.messages.queue
	}
	found := make([]Message, 0, len(list))
	for _, m := range list {
		if !m.evicted {
			found = append(found, *m)
		}
	}
	return found
}

// WaitPublished waits until at least n messages were sent to the channel (any channel when empty) and gives them all.
func (s *Server) WaitPublished(ctx context.Context, channel string, n int) ([]Message, error) {
	var found []Message
	err := s.await(ctx, fmt.Sprintf("%d messages on %q", n, channel), func() bool {
		found = s.published(channel)
		return len(found) >= n
	})
	return found, err
}

// Publish puts a message in as if a client with the given user id had published it, and returns its timetoken. It works
// while paused, and no fault applies. The payload is encoded as JSON; json.RawMessage goes out as it is.
func (s *Server) Publish(channel, uuid string, payload any) (int64, error) {
	encoded, err := encode(payload)
	if err != nil {
		return 0, fmt.Errorf("publish on %s: %w", channel, err)
	}
	if !validName(channel) {
		return 0, fmt.Errorf("publish on %q: not a channel name", channel)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := &Message{Channel: channel, Kind: KindMessage, UUID: uuid, Payload: encoded, Stored: true, live: true}
	s.add(m)
	return m.Timetoken, nil
}

// Lost counts the messages that some poll could not get any more because its buffer had overflowed.
func (s *Server) Lost() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.messages.lost
}
