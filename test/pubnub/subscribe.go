package pubnub

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// routeSubscribe: GET /v2/subscribe/{sub}/{channels or ,}/0
//
// A request without tt (or tt=0) is a handshake and answered at once with the current cursor. A poll is answered at once
// when something newer than tt is buffered, otherwise held until something comes or LongPoll is over.
// filter-expr is accepted and ignored.
func routeSubscribe(c *call) handler {
	if len(c.segments) < 5 || c.segments[0] != "v2" || c.segments[1] != "subscribe" {
		return nil
	}
	c.family, c.op = "subscribe", "poll"
	if tt := c.query.Get("tt"); tt == "" || tt == "0" {
		c.op = "handshake"
	}
	c.channels = splitNames(c.segments[3])
	return (*Server).subscribe
}

// Subscriber is a poll that is being held.
type Subscriber struct {
	UUID      string    `json:"uuid"`
	Channels  []string  `json:"channels"` // wildcards and -pnpres names included
	Groups    []string  `json:"groups"`
	Timetoken int64     `json:"timetoken,string"`
	Since     time.Time `json:"since"`
}

// waiter is a Subscriber as the server sees it.
type waiter struct {
	Subscriber
	woken chan struct{} // holds one token
}

// waiters are the polls being held, also by the names and the groups that they wait for.
type waiters struct {
	all     map[*waiter]bool
	byName  map[string]map[*waiter]bool
	byGroup map[string]map[*waiter]bool
}

// init keeps polls that are in progress.
func (ws *waiters) init() {
	if ws.all == nil {
		ws.all, ws.byName, ws.byGroup = make(map[*waiter]bool), make(map[string]map[*waiter]bool), make(map[string]map[*waiter]bool)
	}
}

func (ws *waiters) add(w *waiter) {
	ws.all[w] = true
	enter(ws.byName, w.Channels, w)
	enter(ws.byGroup, w.Groups, w)
}

func (ws *waiters) remove(w *waiter) {
	delete(ws.all, w)
	leave(ws.byName, w.Channels, w)
	leave(ws.byGroup, w.Groups, w)
}

func enter(index map[string]map[*waiter]bool, names []string, w *waiter) {
	for _, name := range names {
		if index[name] == nil {
			index[name] = make(map[*waiter]bool)
		}
		index[name][w] = true
	}
}

func leave(index map[string]map[*waiter]bool, names []string, w *waiter) {
	for _, name := range names {
		delete(index[name], w)
		if len(index[name]) == 0 {
			delete(index, name)
		}
	}
}

func (ws *waiters) wake(name string)       { wake(ws.byName[name]) }
func (ws *waiters) wakeGroup(group string) { wake(ws.byGroup[group]) }
func (s *Server) wakeAll()                 { wake(s.waiters.all) }

func wake(set map[*waiter]bool) {
	for w := range set {
		select {
		case w.woken <- struct{}{}:
		default:
		}
	}
}

// envelope is one element of a subscribe answer.
type envelope struct {
	Shard      string          `json:"a"`
	Flags      int             `json:"f"`
	Event      int             `json:"e,omitempty"`
	Publisher  string          `json:"i,omitempty"`
	Sequence   int             `json:"s,omitempty"`
	Published  cursor          `json:"p"`
	Key        string          `json:"k"`
	Channel    string          `json:"c"`
	Match      string          `json:"b"`
	Meta       json.RawMessage `json:"u,omitempty"`
	CustomType string          `json:"cmt,omitempty"`
	Data       json.RawMessage `json:"d"`
}

type cursor struct {
	Timetoken string `json:"t"`
	Region    int    `json:"r"`
}

type delivery struct {
	message *Message
	match   string // the subscription name that got it
}

func (s *Server) subscribe(c *call) answer {
	if refused := s.subscribeKey(c.segments[2]); refused != nil {
		return *refused
	}
	groups := c.groupNames()
	for _, name := range c.channels {
		if !subscribableName(strings.TrimSuffix(name, presenceSuffix)) {
			return refuse(http.StatusBadRequest, "Subscribe", "Invalid Channel")
		}
	}
	tt, _, err := c.timetoken("tt")
	if err != nil {
		return refuse(http.StatusBadRequest, "Subscribe", "Invalid Timetoken")
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if len(c.channels) == 0 && len(s.groups.resolve(groups)) == 0 {
		return refuse(http.StatusBadRequest, "PubSub", "Channel group or groups result in empty subscription set")
	}
	now := s.tick() // before the join is announced: who listens to presence sees himself come
	ending := s.presenceSubscribed(c, groups)
	defer ending()
	if tt == 0 {
		return s.batch(nil, now, nil)
	}

	w := &waiter{woken: make(chan struct{}, 1)}
	w.Subscriber = Subscriber{UUID: c.uuid(), Channels: unique(c.channels), Groups: unique(groups), Timetoken: tt, Since: s.cfg.Clock()}
	s.waiters.add(w)
	s.signalChange()
	defer func() {
		s.waiters.remove(w)
		s.signalChange()
	}()
	timer := time.NewTimer(s.cfg.LongPoll)
	defer timer.Stop()
	for {
		if poison := s.faults.take(c, FaultPoison); poison != nil {
			found := s.collect(w)
			next := newest(found)
			if len(found) == 0 {
				next = s.tick()
			}
			return s.batch(found, next, poison.envelopesFor(w))
		}
		if s.faults.take(c, FaultLostCursor) != nil {
			return s.batch(nil, s.tick(), nil)
		}
		if found := s.collect(w); len(found) > 0 {
			found = s.faults.rearrange(c, found)
			return s.batch(found, newest(found), nil)
		}
		if ended := s.pause(c, w, timer.C); ended != nil {
			return *ended
		}
	}
}

// pause releases mu until the poll has to look again. The answer is nil unless the poll is over.
func (s *Server) pause(c *call, w *waiter, over <-chan time.Time) *answer {
	s.mu.Unlock()
	defer s.mu.Lock()
	select {
	case <-w.woken:
		return nil
	case <-over:
		s.mu.Lock()
		defer s.mu.Unlock()
		// Something may have come in the meantime: then the poll is not empty after all.
		if len(s.collect(w)) > 0 {
			return nil
		}
		empty := s.batch(nil, s.tick(), nil)
		return &empty
	case <-c.http.Context().Done():
	case <-c.gone:
	}
	return &answer{abort: true}
}

// collect gives what the poll has coming, oldest first and at most one answer full; mu is held.
func (s *Server) collect(w *waiter) []delivery {
	var found []delivery
	seen := make(map[int64]bool)
	gather := func(feed, match string) {
		for _, m := range s.messages.after(feed, w.Timetoken, s.cfg) {
			if !seen[m.Timetoken] {
				seen[m.Timetoken] = true
				found = append(found, delivery{m, match})
			}
		}
	}
	// A message that several subscriptions match comes once: by its channel, else by group, else by wildcard.
	for _, name := range w.Channels {
		if !isWildcard(name) {
			gather(name, name)
		}
	}
	for _, group := range w.Groups {
		for _, channel := range s.groups.resolve([]string{group}) {
			gather(channel, group)
		}
	}
	for _, name := range w.Channels {
		if isWildcard(name) {
			gather(name, name)
		}
	}
	slices.SortFunc(found, func(a, b delivery) int { return cmp.Compare(a.message.Timetoken, b.message.Timetoken) })
	if over := len(found) - s.cfg.BufferSize; over > 0 {
		s.messages.lost += over
		found = found[over:]
	}
	return found[:min(len(found), maxBatch)]
}

func newest(found []delivery) int64 {
	var tt int64
	for _, d := range found {
		tt = max(tt, d.message.Timetoken)
	}
	return tt
}

// batch builds the answer; mu is held.
func (s *Server) batch(found []delivery, tt int64, first []json.RawMessage) answer {
	elements := make([]any, 0, len(first)+len(found))
	for _, raw := range first {
		elements = append(elements, raw)
	}
	for _, d := range found {
		m := d.message
		e := envelope{
			Shard: "2", Publisher: m.UUID, Sequence: m.Sequence, Key: s.cfg.SubscribeKey, Channel: m.Channel,
			Published: cursor{strconv.FormatInt(m.Timetoken, 10), m.region}, Match: d.match, Meta: m.Meta,
			CustomType: m.CustomType, Data: m.Payload,
		}
		if m.Kind == KindSignal {
			e.Event = 1
		}
		elements = append(elements, e)
	}
	return reply(http.StatusOK, object{"t": cursor{strconv.FormatInt(tt, 10), s.region}, "m": elements})
}

func unique(names []string) []string {
	sorted := slices.Clone(names)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

// Subscribers gives the polls being held at the moment, by age.
func (s *Server) Subscribers() []Subscriber {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make([]Subscriber, 0, len(s.waiters.all))
	for w := range s.waiters.all {
		found = append(found, w.Subscriber)
	}
	slices.SortFunc(found, func(a, b Subscriber) int { return a.Since.Compare(b.Since) })
	return found
}

// WaitSubscribers waits until at least n polls are being held that a message on the channel would reach.
func (s *Server) WaitSubscribers(ctx context.Context, channel string, n int) error {
	return s.await(ctx, fmt.Sprintf("%d subscribers of %q", n, channel), func() bool {
		reached := make(map[*waiter]bool)
		for _, name := range s.cfg.feeds(channel) {
			for w := range s.waiters.byName[name] {
				reached[w] = true
			}
		}
		for _, group := range s.groups.of(channel) {
			for w := range s.waiters.byGroup[group] {
				reached[w] = true
			}
		}
		return len(reached) >= n
	})
}
