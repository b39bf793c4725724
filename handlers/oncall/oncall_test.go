package oncall_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"consultd/handlers/oncall"
	"consultd/states"
)

// recorder is the end of the emergency log that a source appends to.
type recorder struct {
	subject, msgID string
	answer         struct {
		Escalation string   `json:"escalationId"`
		Users      []string `json:"users"`
		Origin     string   `json:"origin"`
	}
}

func (r *recorder) append(_ context.Context, subject, msgID string, _ map[string]string, data []byte) (uint64, error) {
	r.subject, r.msgID = subject, msgID
	return 1, json.Unmarshal(data, &r.answer)
}

// source asks a clinic that answers as the handler says; its answers reach the recorder.
func source(t *testing.T, clinic http.HandlerFunc, change func(*oncall.Options)) (*oncall.Source, *recorder) {
	t.Helper()
	server := httptest.NewServer(clinic)
	t.Cleanup(server.Close)
	var r recorder
	o := oncall.Options{URL: server.URL + "/api/on-call/{departmentId}", Timeout: time.Second, Cache: time.Hour, Append: r.append, Log: zerolog.Nop()}
	if change != nil {
		change(&o)
	}
	s, err := oncall.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s, &r
}

func ask(t *testing.T, s *oncall.Source) {
	t.Helper()
	q := states.Message{ID: "q1", Payload: []byte(`{"escalationId":"esc-1","departmentId":"cardiology","severity":"critical"}`)}
	if err := s.Publish(t.Context(), []states.Message{q}); err != nil {
		t.Fatal(err)
	}
}

func TestTheClinicsAnswerEntersTheLogUnderTheQuestionsID(t *testing.T) {
	t.Parallel()
	s, log := source(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/on-call/cardiology" || r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte(`{"providers":[{"id":"dr-chen"},{"id":"not.an.id"},{"id":"dr-silva","name":"ignored"}]}`))
	}, func(o *oncall.Options) { o.Token = "secret" })
	ask(t, s)
	if log.subject != "consult.urgent.oncall.cardiology" || log.msgID != "oncall.q1" || log.answer.Escalation != "esc-1" {
		t.Errorf("entry %+v", log)
	}
	if want := []string{"dr-chen", "dr-silva"}; !slices.Equal(log.answer.Users, want) || log.answer.Origin != "http" {
		t.Errorf("answer %+v, want %v from http", log.answer, want)
	}
}

func TestTheLastGoodAnswerStandsInUntilItIsTooOld(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		cache  time.Duration
		origin string
		users  int
	}{{"cached", time.Hour, "cache", 1}, {"too old", 0, "failsafe", 0}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var away atomic.Bool
			s, log := source(t, func(w http.ResponseWriter, _ *http.Request) {
				if away.Load() {
					http.Error(w, "away", http.StatusServiceUnavailable)
					return
				}
				_, _ = w.Write([]byte(`{"providers":[{"id":"dr-chen"}]}`))
			}, func(o *oncall.Options) { o.Cache = tt.cache })
			ask(t, s)
			away.Store(true)
			ask(t, s)
			if log.answer.Origin != tt.origin || len(log.answer.Users) != tt.users || log.answer.Users == nil {
				t.Errorf("answer %+v, want %d users from %s", log.answer, tt.users, tt.origin)
			}
		})
	}
}

func TestASilentClinicCostsNoMoreThanTheTimeout(t *testing.T) {
	t.Parallel()
	s, log := source(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		func(o *oncall.Options) { o.Timeout = 30 * time.Millisecond })
	ask(t, s)
	if log.answer.Origin != "failsafe" {
		t.Errorf("origin %q, want failsafe", log.answer.Origin)
	}
}

func TestALogThatRefusesIsAnErrorSoThatTheQuestionIsAskedAgain(t *testing.T) {
	t.Parallel()
	s, _ := source(t, http.NotFound, func(o *oncall.Options) {
		o.Append = func(context.Context, string, string, map[string]string, []byte) (uint64, error) {
			return 0, errors.New("log away")
		}
	})
	err := s.Publish(t.Context(), []states.Message{{ID: "q", Payload: []byte(`{"departmentId":"cardiology"}`)}})
	if err == nil || !strings.Contains(err.Error(), "log away") {
		t.Errorf("error %v, want the log's", err)
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	for _, o := range []oncall.Options{{URL: "http://x/", Timeout: 1}, {URL: "http://x/{departmentId}"}, {URL: "http://[/{departmentId}", Timeout: 1}} {
		if _, err := oncall.New(o); err == nil {
			t.Errorf("%q accepted", o.URL)
		}
	}
}
