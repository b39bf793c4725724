package redis_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"consultd/test/redis"
)

// ask sends one inline command and returns the first line of the answer, "" when there is none.
func ask(t *testing.T, addr, question string) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return ""
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "%s\r\n", question); err != nil {
		return ""
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "$") || lines.Text() == "$-1" { // not the length of what follows
			return lines.Text()
		}
	}
	return ""
}

func expect(t *testing.T, s *redis.Server, question, want string) {
	t.Helper()
	if got := ask(t, s.Addr(), question); got != want {
		t.Errorf("%s: %q, want %q", question, got, want)
	}
}

func TestServerKeepsWhatItsFileKept(t *testing.T) {
	s := redis.ForTest(t, redis.Options{AppendOnly: true, AppendFsync: "always"})
	addr := s.Addr()
	expect(t, s, "SET visit waiting", "+OK")
	s.Kill()
	expect(t, s, "PING", "")
	if err := s.Restart(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if s.Addr() != addr {
		t.Errorf("came back at %s, was at %s", s.Addr(), addr)
	}
	expect(t, s, "GET visit", "waiting")
	if err := s.Restart(t.Context(), true); err != nil { // without a Kill before it
		t.Fatal(err)
	}
	expect(t, s, "GET visit", "$-1")
}

func TestServerInMemoryForgets(t *testing.T) {
	s := redis.ForTest(t, redis.Options{})
	expect(t, s, "SET visit waiting", "+OK")
	if err := s.Restart(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	expect(t, s, "GET visit", "$-1")
}

func TestServerPauses(t *testing.T) {
	s := redis.ForTest(t, redis.Options{})
	if err := s.Pause(); err != nil {
		t.Fatal(err)
	}
	expect(t, s, "PING", "")
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	expect(t, s, "PING", "+PONG")
	s.Kill()
	if err := s.Pause(); err == nil {
		t.Error("paused a server that is down")
	}
}

func TestServerServesAWholeCluster(t *testing.T) {
	s := redis.ForTest(t, redis.Options{Cluster: true, AppendOnly: true, AppendFsync: "always"})
	expect(t, s, "SET {clinic}:visit waiting", "+OK")
	if err := s.Restart(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	expect(t, s, "GET {clinic}:visit", "waiting")
	if got := ask(t, s.Addr(), "MGET {a}1 {b}1"); !strings.HasPrefix(got, "-CROSSSLOT") {
		t.Errorf("keys of two slots in one call: %q", got)
	}
}

func TestServerStopsAndCleansUp(t *testing.T) {
	s, err := redis.Start(t.Context(), redis.Options{AppendOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s.Stop()
	expect(t, s, "PING", "")
	if _, err := os.Stat(s.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", s.Dir(), err)
	}
	kept := t.TempDir()
	own, err := redis.Start(t.Context(), redis.Options{AppendOnly: true, Dir: kept})
	if err != nil {
		t.Fatal(err)
	}
	own.Stop()
	if _, err := os.Stat(filepath.Join(kept, "appendonlydir")); err != nil {
		t.Errorf("the caller's directory lost its data: %v", err)
	}
}

func TestStartTellsWhyItCannot(t *testing.T) {
	if _, err := redis.Start(t.Context(), redis.Options{Binary: "no-such-redis"}); !errors.Is(err, redis.ErrNotInstalled) {
		t.Errorf("err = %v", err)
	}
	_, err := redis.Start(t.Context(), redis.Options{Args: []string{"--no-such-option", "1"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-option") {
		t.Errorf("err = %v; it should quote the server's complaint", err)
	}
}

// TestServerDiesWithItsUser kills a process that has started a server, as a test's timeout or a developer would.
func TestServerDiesWithItsUser(t *testing.T) {
	if addr := os.Getenv("REDIS_TEST_CHILD"); addr != "" {
		s, err := redis.Start(t.Context(), redis.Options{})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("addr", s.Addr())
		select {}
	}
	child := exec.Command(os.Args[0], "-test.run=^TestServerDiesWithItsUser$") //nolint:gosec // this very test
	child.Env = append(os.Environ(), "REDIS_TEST_CHILD=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines, addr := bufio.NewScanner(out), ""
	for addr == "" && lines.Scan() {
		addr, _ = strings.CutPrefix(lines.Text(), "addr ")
		if !strings.Contains(addr, ":") {
			addr = ""
		}
	}
	if got := ask(t, addr, "PING"); got != "+PONG" {
		t.Fatalf("the child's server at %q answers %q", addr, got)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ask(t, addr, "PING") == "+PONG" {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the server outlived its user")
		}
	}
}
