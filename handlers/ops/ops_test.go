package ops_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"consultd/handlers/ops"
)

func start(t *testing.T, o ops.Options) *ops.Server {
	t.Helper()
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	s := ops.New(o)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func get(t *testing.T, s *ops.Server, path string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(data)
}

func readiness(t *testing.T, s *ops.Server) (status int, answer ops.Readiness) {
	t.Helper()
	status, body := get(t, s, "/readyz")
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return status, answer
}

func TestReadyNamesWhatIsAway(t *testing.T) {
	t.Parallel()
	var redis atomic.Pointer[error]
	const secret = "canary-4711"
	var log lockedBuffer
	s := start(t, ops.Options{Log: zerolog.New(&log), Checks: []ops.Check{
		{Name: "nats", Run: func(context.Context) error { return nil }},
		{Name: "redis", Run: func(context.Context) error {
			if err := redis.Load(); err != nil {
				return *err
			}
			return nil
		}},
		{Name: "pubnub", Optional: true, Run: func(context.Context) error { return errors.New("GET https://host/?auth=" + secret) }},
	}})
	if status, answer := readiness(t, s); status != http.StatusOK || !answer.Ready || answer.Checks[2] != (ops.Result{Name: "pubnub", Optional: true, Error: "error"}) {
		t.Errorf("an optional dependency away: %d %+v", status, answer)
	}
	_, refused := net.DialTimeout("tcp", unused(t), time.Second)
	for _, away := range []struct {
		err  error
		kind string
	}{
		{refused, "refused"},
		{fmt.Errorf("ping: %w", context.DeadlineExceeded), "timeout"},
		{fmt.Errorf("ping: %w", net.ErrClosed), "closed"},
		{&net.DNSError{Name: secret}, "unresolved"},
		{errors.New(secret), "error"},
	} {
		redis.Store(&away.err)
		status, answer := readiness(t, s)
		if status != http.StatusServiceUnavailable || answer.Ready || len(answer.Checks) != 3 || answer.Checks[1] != (ops.Result{Name: "redis", Error: away.kind}) || !answer.Checks[0].OK {
			t.Errorf("%v: %d %+v", away.err, status, answer)
		}
		if _, body := get(t, s, "/readyz"); strings.Contains(body, secret) {
			t.Errorf("an error's text is shown: %s", body)
		}
	}
	redis.Store(nil)
	if status, _ := readiness(t, s); status != http.StatusOK {
		t.Errorf("after the return: %d", status)
	}
	if text := log.String(); strings.Contains(text, secret) || strings.Count(text, `"dependency":"redis"`) != 2 {
		t.Errorf("not one line for going and one for coming back:\n%s", text)
	}
}

func unused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func TestDrainingIsNotReady(t *testing.T) {
	t.Parallel()
	s := start(t, ops.Options{Checks: []ops.Check{{Name: "nats", Run: func(context.Context) error { return nil }}}})
	s.SetDraining()
	if status, answer := readiness(t, s); status != http.StatusServiceUnavailable || !answer.Draining || answer.Ready || !answer.Checks[0].OK {
		t.Errorf("%d %+v", status, answer)
	}
	if status, _ := get(t, s, "/healthz"); status != http.StatusOK {
		t.Errorf("a draining daemon is alive, but got %d", status)
	}
}

// TestDeafCheckHangsOnce: a check that ignores its deadline costs a probe one second and one goroutine in all.
func TestDeafCheckHangsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var asked atomic.Int32
		s := ops.New(ops.Options{Checks: []ops.Check{
			{Name: "deaf", Run: func(context.Context) error { asked.Add(1); <-release; return nil }},
			{Name: "slow", Run: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }},
			{Name: "quick", Run: func(context.Context) error { return nil }},
		}})
		began := time.Now()
		for range 3 {
			answer := s.Ready(t.Context())
			for i, want := range []string{"timeout", "timeout", ""} {
				if answer.Checks[i].Error != want {
					t.Errorf("%+v", answer.Checks[i])
				}
			}
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("three probes took %s", took)
		}
		if asked.Load() != 1 {
			t.Errorf("asked %d times while the first question hung", asked.Load())
		}
		close(release)
		synctest.Wait()
		if answer := s.Ready(t.Context()); !answer.Checks[0].OK {
			t.Errorf("after it answered: %+v", answer.Checks[0])
		}
	})
}

func TestHealth(t *testing.T) {
	t.Parallel()
	var stuck atomic.Bool
	s := start(t, ops.Options{Alive: func() error {
		if stuck.Load() {
			return errors.New("lane n of canary-4711 has not moved")
		}
		return nil
	}})
	if status, body := get(t, s, "/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("%d %q", status, body)
	}
	stuck.Store(true)
	if status, body := get(t, s, "/healthz"); status != http.StatusServiceUnavailable || strings.Contains(body, "canary") {
		t.Errorf("%d %q", status, body)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := ops.NewRegistry()
	visits := prometheus.NewCounter(prometheus.CounterOpts{Name: "consultd_visits_total", Help: "Visits."})
	registry.MustRegister(visits)
	visits.Add(3)
	_, body := get(t, start(t, ops.Options{Registry: registry}), "/metrics")
	for _, want := range []string{"consultd_visits_total 3", "go_goroutines", "consultd_build_info{version="} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
}

func TestPprofOnlyOnLoopback(t *testing.T) {
	t.Parallel()
	if status, body := get(t, start(t, ops.Options{Pprof: true}), "/debug/pprof/"); status != http.StatusOK || !strings.Contains(body, "goroutine") {
		t.Errorf("on loopback: %d", status)
	}
	if status, _ := get(t, start(t, ops.Options{}), "/debug/pprof/"); status != http.StatusNotFound {
		t.Errorf("switched off: %d", status)
	}
	open := ops.New(ops.Options{Addr: "0.0.0.0:0", Pprof: true})
	if err := open.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("on every interface: %v", err)
	}
}

func TestPortIsTakenAndGivenBack(t *testing.T) {
	t.Parallel()
	s := ops.New(ops.Options{Addr: "127.0.0.1:0"})
	if s.Addr() != "" || s.Close(t.Context()) != nil {
		t.Error("a server that never started")
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ops.New(ops.Options{Addr: s.Addr()}).Start(t.Context()); err == nil {
		t.Error("two servers on one port")
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := start(t, ops.Options{Addr: s.Addr()})
	if again.Addr() != s.Addr() {
		t.Errorf("got %s", again.Addr())
	}
}

// TestOthersShareAnAnswer: a prober that hangs up does not fail the one that waits for the same check.
func TestOthersShareAnAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := ops.New(ops.Options{Checks: []ops.Check{{Name: "redis", Run: func(ctx context.Context) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}}})
		hasty, hangUp := context.WithCancel(t.Context())
		answers := make(chan ops.Readiness, 2)
		go func() { answers <- s.Ready(hasty) }()
		synctest.Wait()
		go func() { answers <- s.Ready(t.Context()) }()
		synctest.Wait()
		hangUp()
		first := <-answers
		close(release)
		if second := <-answers; first.Ready || !second.Ready {
			t.Errorf("the one who hung up: %+v, the one who waited: %+v", first, second)
		}
	})
}

func TestOrderOfChecks(t *testing.T) {
	t.Parallel()
	var checks []ops.Check
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprint("check-", i))
		checks = append(checks, ops.Check{Name: want[i], Run: func(context.Context) error { return nil }})
	}
	var got []string
	for _, result := range ops.New(ops.Options{Checks: checks}).Ready(t.Context()).Checks {
		got = append(got, result.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("order %q", got)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
