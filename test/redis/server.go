// Package redis runs a real redis-server for tests and for the local development stack: on a free port, in a directory
// of its own, killed and restarted at will, and gone when its user is gone.
//
// It never talks to a server that it has not started, and knows nothing of what is stored.
package redis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options says how a server keeps its data. The zero value is a server in memory only.
type Options struct {
	AppendOnly  bool   // keep the append-only file
	AppendFsync string // always, everysec or no; "" is everysec
	Cluster     bool   // cluster mode, with every slot on this one node
	Dir         string // where the data is kept; "" is a temporary directory that goes with Stop
	Port        int    // 0 takes a free one; Restart always takes the same again
	Binary      string // "" is redis-server on the PATH
	Args        []string
}

// Server is one redis-server process.
type Server struct {
	opts    Options
	port    int
	busPort int // of the cluster bus
	dir     string
	ownDir  bool

	mu   sync.Mutex
	proc *process // nil while the server is down
}

// ErrNotInstalled means that there is no redis-server on this machine.
var ErrNotInstalled = errors.New("redis-server not found: install the package redis-server or name the binary")

const portAttempts = 5 // a free port may be taken between finding and using it

// Start runs a server and returns when it answers. The ctx bounds the start only; Stop ends the server.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.Binary == "" {
		opts.Binary = "redis-server"
	}
	path, err := exec.LookPath(opts.Binary)
	if err != nil {
		return nil, ErrNotInstalled
	}
	opts.Binary = path
	s := &Server{opts: opts, dir: opts.Dir}
	if s.dir == "" {
		if s.dir, err = os.MkdirTemp("", "redis-"); err != nil {
			return nil, fmt.Errorf("redis directory: %w", err)
		}
		s.ownDir = true
	}
	for attempt := 1; ; attempt++ {
		if err = s.choosePorts(); err == nil {
			err = s.up(ctx)
		}
		if err == nil {
			return s, nil
		}
		if attempt == portAttempts || opts.Port != 0 || ctx.Err() != nil {
			s.removeDir()
			return nil, err
		}
	}
}

// Addr is host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// PID is the server's process, 0 while it is down.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return 0
	}
	return s.proc.cmd.Process.Pid
}

// Dir is where the data is kept.
func (s *Server) Dir() string { return s.dir }

// Kill ends the process with SIGKILL, as a crash would. A server that is down stays down.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down(syscall.SIGKILL)
}

// Pause stops the process without ending it: connections stay open and nothing answers.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume continues a paused process.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

// Restart runs the server again on the same port, after a Kill or instead of one. With empty set, its data is removed first.
func (s *Server) Restart(ctx context.Context, empty bool) error {
	s.Kill()
	if empty {
		if err := s.clear(); err != nil {
			return err
		}
	}
	return s.up(ctx)
}

// Stop ends the server and removes its temporary directory. It may be called more than once.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down(syscall.SIGTERM)
	s.removeDir()
}

func (s *Server) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return errors.New("redis-server is not running")
	}
	return s.proc.cmd.Process.Signal(sig)
}

func (s *Server) down(sig syscall.Signal) {
	if s.proc == nil {
		return
	}
	s.proc.end(sig)
	s.proc = nil
}

func (s *Server) removeDir() {
	if s.ownDir {
		_ = os.RemoveAll(s.dir) // a temporary directory; nothing depends on its going
	}
}

func (s *Server) clear() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("redis directory: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
			return fmt.Errorf("redis directory: %w", err)
		}
	}
	return nil
}

func (s *Server) choosePorts() (err error) {
	if s.port = s.opts.Port; s.port == 0 {
		if s.port, err = freePort(); err != nil {
			return err
		}
	}
	if s.opts.Cluster {
		s.busPort, err = freePort()
	}
	return err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("free port: %w", err)
	}
	defer l.Close() //nolint:errcheck // it never carried anything
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (s *Server) args() []string {
	args := []string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(s.port), "--dir", s.dir, "--save", "", "--daemonize", "no",
		"--appendonly", map[bool]string{true: "yes", false: "no"}[s.opts.AppendOnly],
	}
	if s.opts.AppendFsync != "" {
		args = append(args, "--appendfsync", s.opts.AppendFsync)
	}
	if s.opts.Cluster {
		args = append(args, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(s.busPort))
	}
	return append(args, s.opts.Args...)
}

// up runs the process and waits until it answers, in cluster mode until it serves every slot.
func (s *Server) up(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	proc, err := run(s.opts.Binary, s.args())
	if err != nil {
		return fmt.Errorf("start redis-server: %w", err)
	}
	err = s.await(ctx, proc, "PING", "+PONG")
	if err == nil && s.opts.Cluster {
		if _, err = s.ask("CLUSTER INFO", "cluster_slots_assigned:16384"); err != nil {
			if _, err = s.ask("CLUSTER ADDSLOTSRANGE 0 16383", "+OK"); err == nil {
				err = s.await(ctx, proc, "CLUSTER INFO", "cluster_state:ok")
			}
		} else {
			err = s.await(ctx, proc, "CLUSTER INFO", "cluster_state:ok")
		}
	}
	if err != nil {
		proc.end(syscall.SIGKILL)
		return fmt.Errorf("start redis-server: %w\n%s", err, proc.output())
	}
	s.proc = proc
	return nil
}

// await repeats a question until the answer holds what is wanted, the process ends, or ctx does.
func (s *Server) await(ctx context.Context, proc *process, question, want string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		answer, err := s.ask(question, want)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-proc.ended:
			return errors.New("the process ended")
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (last answer %q)", question, ctx.Err(), answer)
		}
	}
}

// ask sends one inline command over a connection of its own and reads until the answer holds what is wanted.
func (s *Server) ask(question, want string) (answer string, err error) {
	conn, err := net.DialTimeout("tcp", s.Addr(), time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close() //nolint:errcheck // only read from
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	// QUIT makes the server close the connection after the answer, so that reading ends.
	if _, err := fmt.Fprintf(conn, "%s\r\nQUIT\r\n", question); err != nil {
		return "", err
	}
	lines := bufio.NewScanner(conn)
	var all strings.Builder
	for lines.Scan() {
		all.WriteString(lines.Text() + "\n")
	}
	if !strings.Contains(all.String(), want) {
		return all.String(), errors.New("not yet")
	}
	return all.String(), nil
}

// process is one running redis-server.
type process struct {
	cmd   *exec.Cmd
	out   tail
	ended chan struct{}
}

// run starts the process from a thread that lives as long as it does: the kernel ends the child with the thread that
// started it, which is how no server outlives a killed test.
func run(binary string, args []string) (*process, error) {
	p := &process{cmd: exec.Command(binary, args...), ended: make(chan struct{})} //nolint:gosec // the caller's own binary
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = dieWithParent()
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // ending by a signal is the usual case
			close(p.ended)
		}
	}()
	return p, <-started
}

const stopPatience = 5 * time.Second // after which a polite signal becomes SIGKILL

func (p *process) end(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig) // an error means that it has ended already
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	select {
	case <-p.ended:
	case <-time.After(stopPatience):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

func (p *process) output() string { return p.out.String() }

// tail keeps the last few kilobytes that are written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

const tailSize = 4096

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	if extra := len(t.kept) - tailSize; extra > 0 {
		t.kept = append(t.kept[:0], t.kept[extra:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
