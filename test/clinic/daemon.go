package clinic

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"consultd/orchestrator/daemon"
)

// Daemon is consultd running in the test's own process.
type Daemon struct {
	tb     testing.TB
	OpsURL string
	Log    *Lines
	stop   context.CancelFunc
	ended  chan error
	once   sync.Once
	err    error
}

// Run starts consultd in this process and waits until it is ready. It is stopped, in order, when the test ends.
func (c *Clinic) Run() *Daemon {
	c.tb.Helper()
	d := c.RunUnready()
	awaitReady(c.tb, d.OpsURL)
	return d
}

// RunUnready starts consultd in this process without waiting until it says that it is ready.
func (c *Clinic) RunUnready() *Daemon {
	c.tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := &Daemon{tb: c.tb, Log: &Lines{}, stop: cancel, ended: make(chan error, 1)}
	instance, err := daemon.New(c.Config, zerolog.New(d.Log).Level(zerolog.InfoLevel).With().Timestamp().Logger())
	if err != nil {
		c.tb.Fatal(err)
	}
	go func() { d.ended <- instance.Run(ctx) }()
	c.tb.Cleanup(func() {
		if err := d.Stop(); err != nil {
			c.tb.Errorf("consultd ended with: %v", err)
		}
		if c.tb.Failed() {
			c.tb.Logf("consultd's log:\n%s", d.Log.Tail(60))
		}
	})
	select {
	case <-instance.Ready():
	case err := <-d.ended:
		d.ended <- err
		c.tb.Fatalf("consultd did not start: %v", err)
	case <-time.After(patience):
		c.tb.Fatalf("consultd is not ready after %s:\n%s", patience, d.Log.Tail(60))
	}
	d.OpsURL = "http://" + instance.OpsAddr()
	return d
}

// Stop stops consultd as SIGTERM does and returns what it ended with. A second call returns the same.
func (d *Daemon) Stop() error {
	d.once.Do(func() {
		d.stop()
		d.err = <-d.ended
	})
	return d.err
}

func awaitReady(tb testing.TB, opsURL string) {
	tb.Helper()
	eventually(tb, "readiness", func() (bool, string) {
		resp, err := http.Get(opsURL + "/readyz") //nolint:gosec,noctx // the test's own daemon
		if err != nil {
			return false, err.Error()
		}
		defer func() { _ = resp.Body.Close() }()
		var body bytes.Buffer
		_, _ = body.ReadFrom(resp.Body)
		return resp.StatusCode == http.StatusOK, body.String()
	})
}

// Process is consultd as a child process.
type Process struct {
	tb     testing.TB
	cmd    *exec.Cmd
	OpsURL string
	Log    *Lines
	ended  chan struct{}
}

var (
	buildOnce sync.Once
	binary    string
	errBuild  error
	buildDir  string
)

// Binary builds consultd with the crash points compiled in, once per test process, and returns its path.
func Binary(tb testing.TB) string {
	tb.Helper()
	buildOnce.Do(func() {
		if buildDir, errBuild = os.MkdirTemp("", "consultd-test-"); errBuild != nil {
			return
		}
		binary = filepath.Join(buildDir, "consultd")
		out, err := exec.Command("go", "build", "-tags", "crashpoints", "-o", binary, "consultd/cmd/consultd").CombinedOutput() //nolint:gosec,noctx // fixed arguments
		if err != nil {
			errBuild = &buildError{err, string(out)}
		}
	})
	if errBuild != nil {
		tb.Fatal(errBuild)
	}
	return binary
}

// RemoveBinary removes what Binary built; call it at the end of TestMain.
func RemoveBinary() {
	if buildDir != "" {
		_ = os.RemoveAll(buildDir)
	}
}

type buildError struct {
	err    error
	output string
}

func (e *buildError) Error() string { return "build consultd: " + e.err.Error() + "\n" + e.output }

// Spawn starts consultd as a child process with extra environment and waits until it is ready, unless it dies before
// that (as a crash point in its start makes it do). It is killed when the test ends.
func (c *Clinic) Spawn(env ...string) *Process {
	c.tb.Helper()
	p := &Process{tb: c.tb, Log: &Lines{}, ended: make(chan struct{})}
	p.cmd = exec.Command(Binary(c.tb), "run", "--config", c.ConfigFile) //nolint:gosec,noctx // the test's own binary
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = p.Log
	p.cmd.SysProcAttr = dieWithParent()
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the kernel ends a child with the thread that started it
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(func() {
		p.Kill()
		if c.tb.Failed() {
			c.tb.Logf("log of consultd %d:\n%s", p.cmd.Process.Pid, p.Log.Tail(40))
		}
	})
	eventually(c.tb, "start of consultd", func() (bool, string) {
		select {
		case <-p.ended:
			return true, ""
		default:
		}
		p.OpsURL = p.Log.opsURL()
		if p.OpsURL == "" {
			return false, p.Log.Tail(5)
		}
		resp, err := http.Get(p.OpsURL + "/readyz") //nolint:gosec,noctx // the test's own daemon
		if err != nil {
			return false, err.Error()
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
	return p
}

// Kill ends the process with SIGKILL, without a chance to finish anything, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// Ended is closed when the process is gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// ExitCode is what the process ended with; valid once Ended is closed, -1 after a signal.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Signal sends a signal to the process.
func (p *Process) Signal(s os.Signal) {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.tb.Fatal(err)
	}
}

// Lines keeps a program's log.
type Lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write appends to the log.
func (l *Lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// String is the whole log.
func (l *Lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Tail is the last n lines.
func (l *Lines) Tail(n int) string {
	lines := strings.Split(strings.TrimRight(l.String(), "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// AtLeast returns the lines of a level and above: error, or warn.
func (l *Lines) AtLeast(levels ...string) []string {
	var found []string
	s := bufio.NewScanner(strings.NewReader(l.String()))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		for _, level := range levels {
			if strings.Contains(s.Text(), `"level":"`+level+`"`) {
				found = append(found, s.Text())
			}
		}
	}
	return found
}

func (l *Lines) opsURL() string {
	s := bufio.NewScanner(strings.NewReader(l.String()))
	for s.Scan() {
		var line struct{ Message, Addr string }
		if json.Unmarshal(s.Bytes(), &line) == nil && line.Message == "ops port open" {
			return "http://" + line.Addr
		}
	}
	return ""
}
