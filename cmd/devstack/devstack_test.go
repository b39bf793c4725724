package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	sdk "github.com/pubnub/go/v7"
	"github.com/pubnub/go/v7/crypto"
	"github.com/redis/go-redis/v9"

	"consultd/config"
)

const patience = 60 * time.Second // a busy machine takes its time

// binary is devstack, built once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "devstack-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "devstack")
	out, err := exec.Command("go", slices.Concat([]string{"build"}, buildFlags(), []string{"-o", path, "."})...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// stack is one devstack process.
type stack struct {
	t     *testing.T
	cmd   *exec.Cmd
	out   *output
	temp  string // its TMPDIR, which nobody else uses
	file  string
	ready ready
	ended chan error
}

type ready struct {
	NATS, Redis, PubNub, Ops, PublishKey, SubscribeKey, SecretKey, CipherKey, OrganizationID, Config string
}

type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// launch starts devstack without waiting for it.
func launch(t *testing.T, env []string, args ...string) *stack {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{t: t, out: &output{}, temp: t.TempDir(), ended: make(chan error, 1)}
	s.file = filepath.Join(t.TempDir(), "ready.json")
	s.cmd = exec.Command(path, append([]string{"--ready-file", s.file}, args...)...)
	s.cmd.Env = append(append(os.Environ(), "TMPDIR="+s.temp), env...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.ended <- s.cmd.Wait() }()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		if t.Failed() {
			t.Logf("devstack %s said:\n%s", strings.Join(args, " "), s.out)
		}
	})
	return s
}

// start starts devstack and reads its ready file.
func start(t *testing.T, env []string, args ...string) *stack {
	t.Helper()
	s := launch(t, env, args...)
	s.eventually("ready file", func() error {
		select {
		case err := <-s.ended:
			s.ended <- err
			t.Fatalf("ended before it was ready: %v", err)
		default:
		}
		data, err := os.ReadFile(s.file)
		if err != nil {
			return err
		}
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&s.ready); err != nil {
			t.Fatalf("the ready file is not whole: %v\n%s", err, data)
		}
		return nil
	})
	return s
}

func (s *stack) eventually(what string, try func() error) {
	s.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			s.t.Fatalf("%s: %v", what, err)
		}
	}
}

// interrupt sends Ctrl-C as a terminal does, to the whole process group, and waits for the end.
func (s *stack) interrupt() {
	s.t.Helper()
	if err := syscall.Kill(-s.cmd.Process.Pid, syscall.SIGINT); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.ended:
		if err != nil {
			s.t.Errorf("Ctrl-C: %v, want a clean end", err)
		}
	case <-time.After(10 * time.Second):
		s.t.Fatal("still running 10 s after Ctrl-C")
	}
	if _, after, _ := strings.Cut(s.out.String(), "Stopping."); strings.Contains(after, "error") || strings.Contains(after, "warning") {
		s.t.Errorf("complaints while stopping: %s", after)
	}
	s.nothingLeft()
}

// nothingLeft looks for processes of the group, for the ports, and for files.
func (s *stack) nothingLeft() {
	s.t.Helper()
	s.eventually("child processes", func() error {
		if err := syscall.Kill(-s.cmd.Process.Pid, 0); err == nil {
			return fmt.Errorf("a process of the group is still there")
		}
		return nil
	})
	for _, addr := range []string{strings.TrimPrefix(s.ready.NATS, "nats://"), s.ready.Redis, strings.TrimPrefix(s.ready.PubNub, "http://")} {
		if conn, err := net.Dial("tcp", addr); err == nil {
			_ = conn.Close()
			s.t.Errorf("%s still answers", addr)
		}
	}
	left, err := os.ReadDir(s.temp)
	if err != nil || len(left) != 0 {
		s.t.Errorf("temporary files left: %v %v", left, err)
	}
	if _, err := os.Stat(s.file); err == nil {
		s.t.Error("the ready file is still there")
	}
}

func (s *stack) nats() *nats.Conn {
	s.t.Helper()
	conn, err := nats.Connect(s.ready.NATS)
	if err != nil {
		s.t.Fatalf("nats: %v", err)
	}
	s.t.Cleanup(conn.Close)
	return conn
}

func (s *stack) ping() {
	s.t.Helper()
	client := redis.NewClient(&redis.Options{Addr: s.ready.Redis})
	defer client.Close() //nolint:errcheck // a test's client
	if err := client.Ping(s.t.Context()).Err(); err != nil {
		s.t.Errorf("redis: %v", err)
	}
}

func (s *stack) app(user string) *sdk.PubNub {
	s.t.Helper()
	c := sdk.NewConfigWithUserId(sdk.UserId(user))
	c.Origin, c.Secure = strings.TrimPrefix(s.ready.PubNub, "http://"), false
	c.PublishKey, c.SubscribeKey, c.SecretKey = s.ready.PublishKey, s.ready.SubscribeKey, s.ready.SecretKey
	c.MaxWorkers = 0
	module, err := crypto.NewAesCbcCryptoModule(s.ready.CipherKey, true)
	if err != nil {
		s.t.Fatal(err)
	}
	c.CryptoModule = module
	return sdk.NewPubNub(c)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close() //nolint:errcheck // only read from
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func TestServersOnly(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "--sim=off", "--daemon=off")
	js, err := jetstream.New(s.nats())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.AccountInfo(t.Context()); err != nil {
		t.Errorf("jetstream: %v", err)
	}
	if group, err := syscall.Getpgid(s.redisChild()); err != nil || group == s.cmd.Process.Pid {
		t.Errorf("Redis is in devstack's process group, so that Ctrl-C ends it before consultd has finished: %v", err)
	}
	if _, status, err := s.app("somebody").Time().Execute(); err != nil {
		t.Errorf("pubnub: %d %v", status.StatusCode, err)
	}
	cfg, err := config.Load(s.ready.Config)
	if err != nil {
		t.Fatalf("config: %v", err)
	}
	want := map[string]string{
		cfg.Organization: s.ready.OrganizationID, cfg.NATS.URLs[0]: s.ready.NATS, cfg.Redis.Addr: s.ready.Redis,
		"http://" + cfg.PubNub.Origin: s.ready.PubNub, "http://" + cfg.Ops.Addr: s.ready.Ops,
		cfg.PubNub.PublishKey: s.ready.PublishKey, cfg.PubNub.SubscribeKey: s.ready.SubscribeKey,
		cfg.PubNub.SecretKey.Reveal(): s.ready.SecretKey, cfg.PubNub.CipherKeys[0].Reveal(): s.ready.CipherKey,
	}
	for in, said := range want {
		if in != said || said == "" {
			t.Errorf("configured %q, announced %q", in, said)
		}
	}
	if _, port, err := net.SplitHostPort(cfg.Ops.Addr); err != nil || port == "0" {
		t.Errorf("ops address %s: a consultd with this file could not be found", cfg.Ops.Addr)
	}
	if len(cfg.Escalation.OnCall["cardiology"]) == 0 || len(cfg.Escalation.OnCall["paediatrics"]) == 0 || len(cfg.Escalation.Failsafe) == 0 {
		t.Errorf("on call: %v, failsafe %v", cfg.Escalation.OnCall, cfg.Escalation.Failsafe)
	}
	if _, err := cfg.Audit.Key(); err != nil || cfg.Sealing.Keyset.Empty() {
		t.Errorf("keys: %v", err)
	}
	s.interrupt()
}

var visitLine = regexp.MustCompile(`(?m)^\d\d:\d\d:\d\d  apt-0\d{3}    dr-[a-z]+ +pat-10\d   `)

// TestClinic is the whole thing: visits are booked over NATS and lived through over PubNub, up to the notes; an emergency is
// paged and answered.
func TestClinic(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "--pace=4")
	s.eventually("readiness", func() error { // a busy machine may lose a lease for a moment
		if status, body := get(t, s.ready.Ops+"/readyz"); status != http.StatusOK {
			return fmt.Errorf("readyz: %d %s", status, body)
		}
		return nil
	})
	s.ping()
	raise := nats.NewMsg("consult.in.emergency.cardiology") // as the greeting proposes
	raise.Header.Set("Consult-Actor", "nurse-1")
	raise.Header.Set("Consult-Role", "nurse")
	body := regexp.MustCompile(`'(\{"action":"EMERGENCY_ESCALATION".*\})'`).FindStringSubmatch(s.out.String())
	if body == nil {
		t.Fatal("the greeting does not say how to raise an emergency")
	}
	raise.Data = []byte(body[1])
	if err := s.nats().PublishMsg(raise); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"EMERGENCY   cardiology    urgent, round 1: 2 paged", "scheduled → checked-in", "checked-in → waiting",
		"waiting → connecting", "connecting → in-progress", "in-progress → wrapping-up",
		"wrapping-up → completed", "queue.", ": Patient Checked In (high)", "PAGE ", "EMERGENCY ", "closed: resolved",
	} {
		s.eventually("line with "+want, func() error {
			if !strings.Contains(s.out.String(), want) {
				return fmt.Errorf("not there")
			}
			return nil
		})
	}
	text := s.out.String()
	if !visitLine.MatchString(text) {
		t.Error("no aligned line about a visit")
	}
	for line := range strings.Lines(text) {
		// Warnings are allowed: on a busy machine something may be late.
		if strings.Contains(line, "\x1b") || strings.Contains(line, "clinic: ") || strings.Contains(line, "refused") || strings.Contains(line, "  error") {
			t.Errorf("line: %q", line)
		}
		if n := len([]rune(line)); n > 110 && strings.Contains(line, "  apt-") {
			t.Errorf("line of %d characters: %s", n, line)
		}
	}
	s.interrupt()
}

// TestWithoutRedisServer runs where no redis-server is installed.
func TestWithoutRedisServer(t *testing.T) {
	t.Parallel()
	s := start(t, []string{"PATH=" + t.TempDir()}, "--pace=4")
	if !strings.Contains(s.out.String(), "in memory: no redis-server") {
		t.Error("it does not say which Redis it is")
	}
	s.ping()
	s.eventually("a completed visit", func() error {
		if !strings.Contains(s.out.String(), "wrapping-up → completed") {
			return fmt.Errorf("none yet")
		}
		return nil
	})
	s.interrupt()
}

func TestDataIsKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	first := start(t, nil, "--data", dir, "--sim=off")
	conn := first.nats()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	m := nats.NewMsg("consult.in.waiting-room.dr-a")
	m.Header.Set("Consult-Actor", "backend")
	m.Header.Set("Consult-Role", "backend")
	m.Data = fmt.Appendf(nil, `{"action":"APPOINTMENT_SCHEDULED","id":"m1","timestamp":%q,"appointmentId":"a1","patientId":"p1","providerId":"dr-a",
		"departmentId":"cardiology","startsAt":%q}`, time.Now().UTC().Format(time.RFC3339), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	if _, err := js.PublishMsg(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	first.eventually("the visit is booked", func() error {
		if !strings.Contains(first.out.String(), "new → scheduled") {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	keys := keysOf(t, dir)

	second := launch(t, nil, "--data", dir, "--sim=off")
	select {
	case err := <-second.ended:
		if err == nil || !strings.Contains(second.out.String(), "another devstack") {
			t.Errorf("a second devstack on the same data: %v\n%s", err, second.out)
		}
	case <-time.After(patience):
		t.Error("a second devstack runs on the same data")
	}
	first.interrupt()

	third := start(t, nil, "--data", dir, "--sim=off")
	if got := keysOf(t, dir); got != keys || third.ready.CipherKey != first.ready.CipherKey {
		t.Error("the keys are other ones after a restart")
	}
	if js, err = jetstream.New(third.nats()); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "CONSULT_LOG")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := stream.GetLastMsgForSubject(t.Context(), m.Subject); err != nil || !bytes.Equal(got.Data, m.Data) {
		t.Errorf("the log after a restart: %v", err)
	}
	client := redis.NewClient(&redis.Options{Addr: third.ready.Redis})
	defer client.Close() //nolint:errcheck // a test's client
	if keys, err := client.Keys(t.Context(), "*a1*").Result(); err != nil || len(keys) == 0 {
		t.Errorf("the visit in Redis after a restart: %v %v", keys, err)
	}
	if files, err := filepath.Glob(filepath.Join(dir, "redis", "appendonlydir", "*.aof")); err != nil || len(files) == 0 {
		t.Errorf("Redis keeps nothing: %v", err)
	}
	// Whoever tries something out is told why nothing happened.
	for want, body := range map[string]string{
		"a1          refused APPOINTMENT_SCHEDULED by backend: ALREADY_BOOKED": strings.Replace(string(m.Data), "m1", "m2", 1),
		"DEAD        refused on consult.in.waiting-room.dr-a: NOT_JSON":        "{",
	} {
		m := nats.NewMsg(m.Subject)
		m.Header.Set("Consult-Actor", "backend")
		m.Header.Set("Consult-Role", "backend")
		m.Data = []byte(body)
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		third.eventually("line with "+want, func() error {
			if !strings.Contains(third.out.String(), want) {
				return fmt.Errorf("not there")
			}
			return nil
		})
	}
	third.interrupt()
	if _, err := os.Stat(filepath.Join(dir, "consultd.yaml")); err != nil {
		t.Errorf("the data was removed: %v", err)
	}
}

func keysOf(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	files, err := filepath.Glob(filepath.Join(dir, "keys", "*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("keys: %v %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}

// TestKilled leaves no Redis behind when devstack has no chance to stop it.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "--sim=off", "--daemon=off")
	s.ping()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.ended
	s.eventually("the end of the Redis child", func() error {
		conn, err := net.Dial("tcp", s.ready.Redis)
		if err == nil {
			_ = conn.Close()
			return fmt.Errorf("it still answers")
		}
		return nil
	})
}

func TestConfigIsMerged(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "mine.yaml")
	mine := "organization: mine\npubnub: {publish_key: pub-mine}\nescalation: {on_call: {cardiology: [dr-x]}, transports: [app, sms]}\n"
	if err := os.WriteFile(file, []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}
	s := start(t, nil, "--daemon=off", "--config", file, "--redis-addr", "localhost:0")
	cfg, err := config.Load(s.ready.Config)
	if err != nil {
		t.Fatal(err)
	}
	on := cfg.Escalation.OnCall
	if cfg.Organization != "mine" || fmt.Sprint(on["cardiology"]) != "[dr-x]" || fmt.Sprint(cfg.Escalation.Transports) != "[app sms]" {
		t.Errorf("not merged: %+v", cfg)
	}
	if len(on["paediatrics"]) == 0 || cfg.PubNub.SubscribeKey == "" || cfg.NATS.URLs[0] != s.ready.NATS {
		t.Errorf("lost by merging: %+v", cfg)
	}
	if _, _, err := s.app("somebody").Publish().Channel("c").Message("m").Execute(); err != nil || s.ready.PublishKey != "pub-mine" {
		t.Errorf("the stand-in does not know the configured key: %v", err)
	}
	s.interrupt()
}

func TestMistakesAreNamed(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close() //nolint:errcheck // it never carried anything
	file := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(file, []byte("redis: {adress: x}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"--nats-addr: listen tcp":    {"--nats-addr", taken.Addr().String()},
		"write it as host:port":      {"--redis-addr", "6379"},
		"use clinic or off":          {"--sim=hospital"},
		"redis.adress":               {"--config", file},
		"no such file":               {"--config", file + ".none"},
		"unknown command":            {"everything"},
		"needs pubnub.enabled: true": {"--config", off(t)},
	} {
		s := launch(t, nil, args...)
		select {
		case err := <-s.ended:
			if err == nil || !strings.Contains(s.out.String(), want) {
				t.Errorf("%v: %v, want %q in\n%s", args, err, want, s.out)
			}
		case <-time.After(patience):
			t.Errorf("%v: still running", args)
		}
		if left, err := os.ReadDir(s.temp); err != nil || len(left) != 0 {
			t.Errorf("%v: temporary files left: %v %v", args, left, err)
		}
	}
}

func off(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "off.yaml")
	if err := os.WriteFile(file, []byte("pubnub: {enabled: false}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestSecondInterruptLeavesAtOnce holds the first one up with a Redis that does not answer.
func TestSecondInterruptLeavesAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, nil, "--sim=off")
	pause(t, s)
	for range 2 {
		if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		s.eventually("the word about stopping", func() error {
			if !strings.Contains(s.out.String(), "Stopping.") {
				return fmt.Errorf("not yet")
			}
			return nil
		})
	}
	select {
	case <-s.ended:
		if code := s.cmd.ProcessState.ExitCode(); code != 130 {
			t.Errorf("exit code %d, want 130: it did not leave because of the second Ctrl-C", code)
		}
	case <-time.After(2 * time.Second):
		t.Fatal("still running after the second Ctrl-C")
	}
	s.nothingLeft()
}

// pause stops the Redis child, so that consultd cannot give back what it owns.
func pause(t *testing.T, s *stack) {
	t.Helper()
	if err := syscall.Kill(s.redisChild(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// redisChild is the process id of Redis.
func (s *stack) redisChild() int {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	client := redis.NewClient(&redis.Options{Addr: s.ready.Redis})
	defer client.Close() //nolint:errcheck // a test's client
	info, err := client.Info(ctx, "server").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	var pid int
	_, after, _ := strings.Cut(info, "process_id:")
	if _, err := fmt.Sscan(after, &pid); err != nil {
		s.t.Fatal(err)
	}
	return pid
}
