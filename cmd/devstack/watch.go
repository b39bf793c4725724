package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"consultd/handlers"
	"consultd/states"
)

// said is what the watcher reads of everything that consultd says: notifications, pages, and messages on channels.
type said struct {
	ID          string `json:"id"`
	Type        string `json:"type"`
	Action      string `json:"action"`
	Title       string `json:"title"`
	Priority    string `json:"priority"`
	Appointment string `json:"appointmentId"`
	From        string `json:"from"`
	State       string `json:"state"`
	Cause       string `json:"cause"`
	Entry       struct {
		Appointment string `json:"appointmentId"`
	} `json:"entry"`
	QueueEntry string `json:"queueEntryId"`
	NewStatus  string `json:"newStatus"`
	Department string `json:"departmentId"`
	Severity   string `json:"severity"`
	Round      int    `json:"round"`
	Users      int    `json:"users"`
	User       string `json:"userId"`
	Outcome    string `json:"outcome"`

	channel handlers.Channel
}

// decision is the id of the decision that a message belongs to: ids of messages are made of it and a number.
func (s *said) decision() string {
	id, _, _ := strings.Cut(s.ID, ".")
	return id
}

const (
	watchBuffer   = 4096
	togetherFor   = 40 * time.Millisecond // what one decision says arrives within this time
	rememberedIDs = 4096
)

// watcher turns what consultd says on NATS into lines.
type watcher struct {
	screen *screen
	conn   *nats.Conn
	inbox  chan *nats.Msg
	queues map[string]map[string]bool // department to the visits that wait there
	homes  map[string]string          // visit to department
	seen   map[string]bool            // ids of the last messages, because a message may come twice
	order  []string
	held   []said // of one decision
}

// watch begins to listen; run shows what it has heard.
func watch(url string, s *screen) (*watcher, error) {
	conn, err := nats.Connect(url, nats.Name("devstack watcher"), nats.MaxReconnects(-1))
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	w := newWatcher(s)
	w.conn = conn
	for _, subject := range append(append(handlers.OutSubjects(), handlers.PageSubjects()...), handlers.AuditEntrySubject, handlers.DeadSubjects()[0]) {
		if _, err := conn.ChanSubscribe(subject, w.inbox); err != nil {
			conn.Close()
			return nil, fmt.Errorf("watch: %w", err)
		}
	}
	if err := conn.Flush(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("watch: %w", err)
	}
	return w, nil
}

func newWatcher(s *screen) *watcher {
	return &watcher{
		screen: s, inbox: make(chan *nats.Msg, watchBuffer),
		queues: map[string]map[string]bool{}, homes: map[string]string{}, seen: map[string]bool{},
	}
}

// run shows lines until ctx ends, and then what is still waiting to be shown.
func (w *watcher) run(ctx context.Context) {
	timer := time.NewTimer(togetherFor)
	for {
		select {
		case m := <-w.inbox:
			w.hear(m)
			timer.Reset(togetherFor)
		case <-timer.C:
			w.flush()
		case <-ctx.Done():
			for {
				select {
				case m := <-w.inbox:
					w.hear(m)
				default:
					w.flush()
					return
				}
			}
		}
	}
}

func (w *watcher) hear(m *nats.Msg) {
	switch channel, ok := handlers.OutChannel(m.Subject); {
	case ok:
		w.hearChannel(channel, m.Data)
	case m.Subject == handlers.AuditEntrySubject:
		w.flush()
		w.hearAudit(m.Data)
	default:
		w.flush()
		w.hearDead(m.Data)
	}
}

func (w *watcher) hearChannel(name string, data []byte) {
	var s said
	if err := json.Unmarshal(data, &s); err != nil {
		w.screen.at(time.Now(), yellow, "%-10s  %s: not readable", "?", name)
		return
	}
	var err error
	if s.channel, err = handlers.ParseChannel(name); err != nil || w.repeated(name+" "+s.ID) {
		return
	}
	if len(w.held) > 0 && w.held[0].decision() != s.decision() {
		w.flush()
	}
	w.held = append(w.held, s)
	if s.channel.Class == handlers.ClassConsultation { // what a decision says of a visit's state comes last
		w.flush()
	}
}

func (w *watcher) repeated(id string) bool {
	if w.seen[id] {
		return true
	}
	w.seen[id] = true
	if w.order = append(w.order, id); len(w.order) > rememberedIDs {
		delete(w.seen, w.order[0])
		w.order = w.order[1:]
	}
	return false
}

// flush shows what one decision says: the queue is counted first, the change of state comes before who is told about it.
func (w *watcher) flush() {
	now := time.Now()
	for _, s := range w.held {
		w.count(s)
	}
	for _, s := range w.held {
		if s.channel.Class == handlers.ClassConsultation {
			w.showState(now, s)
		}
	}
	for _, s := range w.held {
		switch s.channel.Class {
		case handlers.ClassNotification:
			if s.Type != states.NoticeEscalation { // the page says it already
				w.screen.at(now, faint, "%-10s    → %s: %s (%s)", s.Appointment, s.channel.User, s.Title, s.Priority)
			}
		case handlers.ClassPage:
			w.screen.at(now, red, "%-10s  %-12s  → %s: %s (round %d, by %s)", "PAGE", s.Department, s.channel.User, s.Title, s.Round, s.channel.Transport)
		case handlers.ClassEmergency:
			w.showEmergency(now, s)
		}
	}
	w.held = w.held[:0]
}

// count follows a department's queue.
func (w *watcher) count(s said) {
	if s.channel.Class != handlers.ClassQueue {
		return
	}
	department := s.channel.Department
	queue := w.queues[department]
	if queue == nil {
		queue = map[string]bool{}
		w.queues[department] = queue
	}
	switch s.Action {
	case states.ActionPatientAdded:
		queue[s.Entry.Appointment] = true
		w.homes[s.Entry.Appointment] = department
	case states.ActionPatientRemoved:
		delete(queue, s.QueueEntry)
	case states.ActionStatusUpdated:
		switch s.NewStatus {
		case string(states.VisitCheckedIn), string(states.VisitWaiting):
			queue[s.QueueEntry] = true
		case "":
		default:
			delete(queue, s.QueueEntry)
		}
	}
}

func (w *watcher) showState(now time.Time, s said) {
	look := plain
	switch states.State(s.State) {
	case states.VisitCompleted:
		look = green
	case states.VisitCancelled, states.VisitNoShow, states.VisitLeft:
		look = yellow
	}
	// Where it matters to the queue, the last column says who waits there now; elsewhere, why the visit moved.
	what := s.Cause
	state := states.State(s.State)
	if department, known := w.homes[s.Appointment]; known && (state.Queued() || states.State(s.From).Queued()) {
		what = fmt.Sprintf("queue.%s: %d", department, len(w.queues[department]))
	}
	if state.Final() {
		delete(w.homes, s.Appointment)
	}
	from := s.From
	if from == "" {
		from = "new"
	}
	w.screen.at(now, look, "%-10s  %-12s  %-8s  %-32s  %s", s.Appointment, s.channel.Provider, s.channel.Patient, from+" → "+s.State, what)
}

func (w *watcher) showEmergency(now time.Time, s said) {
	what, look := "", red
	switch s.Action {
	case states.ActionPaged:
		what = fmt.Sprintf("%s, round %d: %d paged", s.Severity, s.Round, s.Users)
	case states.ActionAccepted:
		what, look = "accepted by "+s.User, cyan
	case states.ActionRejected:
		what, look = "declined by "+s.User, yellow
	case states.ActionAttended:
		what, look = "attended by "+s.User, cyan
	case states.ActionClosed:
		what, look = "closed: "+s.Outcome, green
	case states.ActionSeverityChanged:
		what = fmt.Sprintf("%s → %s", s.From, s.Severity)
	default:
		what = strings.ToLower(s.Action)
	}
	about := ""
	if s.Appointment != "" {
		about = "in " + s.Appointment
	}
	w.screen.at(now, look, "%-10s  %-12s  %-42s  %s", "EMERGENCY", s.channel.Department, what, about)
}

// hearAudit shows refusals: nothing else tells whoever tries something out why nothing happened.
func (w *watcher) hearAudit(data []byte) {
	var decision struct {
		Entries []states.AuditEntry `json:"entries"`
	}
	if err := json.Unmarshal(data, &decision); err != nil {
		return
	}
	for _, entry := range decision.Entries {
		if entry.Outcome != states.AuditRefused || w.repeated(entry.ID) {
			continue
		}
		why := entry.Details["code"]
		if detail := entry.Details["detail"]; detail != "" {
			why += ": " + detail
		}
		w.screen.at(time.Now(), yellow, "%-10s  refused %s by %s: %s", entry.Resource.ID, entry.Action, entry.Actor.ID, why)
	}
}

// hearDead shows what could not even be read.
func (w *watcher) hearDead(data []byte) {
	var letter struct{ ID, Subject, Code, Detail string }
	if err := json.Unmarshal(data, &letter); err != nil || w.repeated(letter.ID) {
		return
	}
	w.screen.at(time.Now(), yellow, "%-10s  refused on %s: %s, %s", "DEAD", letter.Subject, letter.Code, letter.Detail)
}
