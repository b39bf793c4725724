// Package oncall asks the clinic's own system who is on call for a department, and brings the answer back as a log entry.
// It pages nobody and decides nothing: what an empty or failed answer means is the escalation table's business.
package oncall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"consultd/handlers"
	"consultd/states"
)

const (
	placeholder = "{departmentId}"
	bodyLimit   = 1 << 20
)

// Options describe the source.
type Options struct {
	URL     string        // GET, with {departmentId} in it; answers {"providers":[{"id":"..."}]}
	Token   string        // bearer token, "" for none
	Timeout time.Duration // for one question; an escalation waits at most this long
	Cache   time.Duration // how old the last good answer may be to stand in for one that does not come
	Refresh time.Duration // how often the answers for Departments are fetched ahead of need, 0: never
	// Departments whose answers are fetched ahead of need, so that a cached one exists when the source is away.
	Departments []string
	// Append puts an answer into the emergency log.
	Append func(ctx context.Context, subject, msgID string, header map[string]string, data []byte) (uint64, error)
	Log    zerolog.Logger
}

// Source is the sink of the questions. It answers every question: from the clinic's system, else from the last good
// answer with its age, else with nobody, which makes the escalation page its failsafe.
type Source struct {
	o      Options
	client *http.Client

	mu   sync.Mutex
	last map[string]answer // by department
}

type answer struct {
	users []string
	at    time.Time
}

// New checks the options.
func New(o Options) (*Source, error) {
	if !strings.Contains(o.URL, placeholder) {
		return nil, fmt.Errorf("on-call source: the URL must contain %s", placeholder)
	}
	if _, err := url.Parse(strings.ReplaceAll(o.URL, placeholder, "x")); err != nil {
		return nil, errors.New("on-call source: the URL cannot be parsed")
	}
	if o.Timeout <= 0 {
		return nil, errors.New("on-call source: the timeout must be positive")
	}
	return &Source{o: o, client: &http.Client{Timeout: o.Timeout}, last: map[string]answer{}}, nil
}

// question is the payload of a message to this sink.
type question struct {
	Escalation string `json:"escalationId"`
	Department string `json:"departmentId"`
}

// reply is what goes into the log.
type reply struct {
	question
	states.OnCallAnswer
}

// Publish asks each question and puts its answer into the log, under an id derived from the question's.
func (s *Source) Publish(ctx context.Context, ms []states.Message) error {
	for _, m := range ms {
		var q question
		if err := json.Unmarshal(m.Payload, &q); err != nil {
			return fmt.Errorf("on-call question: %w", err)
		}
		data, err := json.Marshal(reply{q, s.ask(ctx, q.Department)})
		if err != nil {
			return fmt.Errorf("on-call answer: %w", err)
		}
		if _, err := s.o.Append(ctx, handlers.OnCallSubject(q.Department), "oncall."+m.ID, nil, data); err != nil {
			return fmt.Errorf("on-call answer into the log: %w", err)
		}
	}
	return nil
}

func (s *Source) ask(ctx context.Context, department string) states.OnCallAnswer {
	users, err := s.fetch(ctx, department)
	if err == nil {
		return states.OnCallAnswer{Users: users, Origin: "http"}
	}
	s.mu.Lock()
	last, ok := s.last[department]
	s.mu.Unlock()
	s.o.Log.Error().Err(err).Str("department", department).Bool("cached", ok).Msg("on-call source gave no answer")
	if age := time.Since(last.at); ok && age <= s.o.Cache {
		return states.OnCallAnswer{Users: last.users, Origin: "cache", AgeMS: age.Milliseconds()}
	}
	return states.OnCallAnswer{Users: []string{}, Origin: "failsafe"}
}

// Run keeps an answer for each known department at hand until ctx ends.
func (s *Source) Run(ctx context.Context) {
	if s.o.Refresh <= 0 {
		return
	}
	tick := time.NewTicker(s.o.Refresh)
	defer tick.Stop()
	for {
		for _, d := range s.o.Departments {
			if _, err := s.fetch(ctx, d); err != nil && ctx.Err() == nil {
				s.o.Log.Warn().Err(err).Str("department", d).Msg("on-call source gave no answer ahead of need")
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// fetch asks the clinic's system. Identifiers that cannot be a user's are left out; the others are still paged.
func (s *Source) fetch(ctx context.Context, department string) ([]string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.ReplaceAll(s.o.URL, placeholder, url.PathEscape(department)), nil)
	if err != nil {
		return nil, errors.New("the request cannot be built from the configured URL")
	}
	if s.o.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.o.Token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) { // without the URL, which may hold credentials
			err = u.Err
		}
		return nil, fmt.Errorf("ask: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask: status %d", resp.StatusCode)
	}
	var body struct {
		Providers []struct {
			ID string `json:"id"`
		} `json:"providers"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, bodyLimit)).Decode(&body); err != nil {
		return nil, errors.New(`read: the answer is not {"providers":[{"id":...}]}`)
	}
	users := []string{}
	for _, p := range body.Providers {
		if handlers.Identifier(p.ID) {
			users = append(users, p.ID)
		} else {
			s.o.Log.Warn().Str("department", department).Msg("on-call source named somebody with an unusable identifier; left out")
		}
	}
	s.mu.Lock()
	s.last[department] = answer{users, time.Now()}
	s.mu.Unlock()
	return users, nil
}
