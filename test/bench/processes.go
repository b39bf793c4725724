package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"consultd/config"
	"consultd/orchestrator/daemon"
	"consultd/store"
	"consultd/test/natsserver"
	"consultd/test/redis"
)

// A child is this same program started with a role in its environment.
const (
	roleVariable = "CONSULTD_BENCH_ROLE"
	readyMark    = "ready "
)

func child(role string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	name, argument, _ := strings.Cut(role, "=")
	var err error
	switch name {
	case "nats":
		err = natsChild(ctx, argument)
	case "consultd":
		err = consultdChild(ctx, argument)
	case "bare":
		err = bareChild(ctx, argument)
	default:
		err = errors.New("unknown role")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role, err)
		return 1
	}
	return 0
}

func natsChild(ctx context.Context, dir string) error {
	s, err := natsserver.Start(natsserver.Options{StoreDir: dir})
	if err != nil {
		return err
	}
	fmt.Println(readyMark + s.URL())
	<-ctx.Done()
	return s.Close()
}

func consultdChild(ctx context.Context, file string) error {
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	d, err := daemon.New(cfg, zerolog.New(os.Stderr).Level(zerolog.WarnLevel))
	if err != nil {
		return err
	}
	go func() {
		<-d.Ready()
		fmt.Println(readyMark + "http://" + d.OpsAddr())
	}()
	return d.Run(ctx)
}

// process is a running child.
type process struct {
	cmd  *exec.Cmd
	said string // what it said when it was ready
}

func spawn(ctx context.Context, role string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(ctx, self)} //nolint:gosec // ourselves
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = 10 * time.Second
	p.cmd.Env = append(os.Environ(), roleVariable+"="+role)
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	line := make([]byte, 256)
	n, err := out.Read(line)
	if err != nil || !strings.HasPrefix(string(line[:n]), readyMark) {
		return nil, fmt.Errorf("%s did not become ready", role)
	}
	p.said = strings.TrimSpace(strings.TrimPrefix(string(line[:n]), readyMark))
	return p, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

// cpu is the processor time a process has used.
func cpu(pid int) time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / 100
}

// servers are Redis and NATS, fresh for each pipeline.
type servers struct {
	redis *redis.Server
	nats  *process
	dir   string
}

func startServers(ctx context.Context) (*servers, error) {
	dir, err := os.MkdirTemp("", "consultd-bench-")
	if err != nil {
		return nil, err
	}
	s := &servers{dir: dir}
	if s.redis, err = redis.Start(ctx, redis.Options{AppendOnly: true, AppendFsync: "everysec"}); err != nil {
		return nil, err
	}
	if s.nats, err = spawn(ctx, "nats="+filepath.Join(dir, "nats")); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *servers) stop() {
	s.nats.stop()
	s.redis.Stop()
	_ = os.RemoveAll(s.dir)
}

func (s *servers) cpu() time.Duration { return cpu(s.redis.PID()) + cpu(s.nats.cmd.Process.Pid) }

// config writes a configuration for consultd on these servers.
func (s *servers) config() (string, error) {
	keyset, err := store.GenerateKeyset()
	if err != nil {
		return "", err
	}
	keysetFile := filepath.Join(s.dir, "keyset")
	if err := os.WriteFile(keysetFile, keyset, 0o600); err != nil {
		return "", err
	}
	file := filepath.Join(s.dir, "consultd.yaml")
	return file, os.WriteFile(file, fmt.Appendf(nil, `organization: bench
environment: development
nats: {urls: [%q]}
redis: {addr: %q}
sealing: {keyset: "file:%s"}
audit: {signing_key: "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}
timing: {check_in_opens: 0s}
ops: {addr: "127.0.0.1:0", pprof: true}
escalation: {on_call: {dep-0: [dr-call-1, dr-call-2]}, failsafe: [switchboard], transports: [sms]}
`, s.nats.said, s.redis.Addr(), keysetFile), 0o600)
}

func awaitReady(ctx context.Context, ops string) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, ops+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
