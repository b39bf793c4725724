package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"consultd/cmd/devstack/clinic"
	"consultd/config"
	"consultd/orchestrator/daemon"
)

// options are the flags.
type options struct {
	sim, daemon                              bool
	data                                     string
	natsAddr, redisAddr, pubnubAddr, opsAddr string
	config                                   string
	readyFile                                string
	seed                                     uint64
	pace                                     float64
}

const (
	configFile    = "consultd.yaml"
	daemonLogFile = "consultd.log"
	readyPatience = 30 * time.Second // for consultd to get ready
	readyPoll     = 20 * time.Millisecond
)

// run starts everything in the order in which it is needed, works until ctx ends, and stops it in the opposite order.
func run(ctx context.Context, o options, s *screen, exit *onExit) (err error) {
	for _, a := range [][2]string{
		{"--nats-addr", o.natsAddr}, {"--redis-addr", o.redisAddr}, {"--pubnub-addr", o.pubnubAddr}, {"--ops-addr", o.opsAddr},
	} {
		if err := free(a[0], a[1]); err != nil {
			return err
		}
	}
	if o.readyFile != "" {
		if err := removeReady(o.readyFile); err != nil {
			return err
		}
	}
	st := &stack{options: o, screen: s}
	defer func() { err = errors.Join(err, st.stop()) }()
	s.raw(s.paint(bold, "consultd devstack") + s.paint(faint, "  everything on this machine, for development only") + "\n")
	for _, start := range []func(context.Context) error{st.openData(exit), st.startServers, st.startDaemon, st.startClinic, st.announce} {
		if err := start(ctx); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		s.raw("\n" + s.paint(faint, "Stopping. Ctrl-C again leaves at once.") + "\n")
		return nil
	case err := <-st.daemonEnded: // never without a daemon
		return st.daemonFailed(err)
	}
}

// stack is what runs.
type stack struct {
	options
	screen      *screen
	data        *dataDir
	cfg         *config.Config
	ready       readiness
	redisKind   string
	daemonEnded chan error
	clinic      *clinic.Clinic
	watcher     *watcher
	phase       atomic.Int32
	undo        []func() error
}

func (s *stack) onStop(undo func() error) { s.undo = append(s.undo, undo) }

// stop undoes what was done, last first.
func (s *stack) stop() error {
	s.phase.Store(int32(stopping))
	var errs []error
	for i := len(s.undo) - 1; i >= 0; i-- {
		errs = append(errs, s.undo[i]())
	}
	s.undo = nil
	return errors.Join(errs...)
}

// background runs something until the stack stops, which then waits for it.
func (s *stack) background(work func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		work(ctx)
	}()
	s.onStop(func() error {
		cancel()
		<-ended
		return nil
	})
}

func (s *stack) openData(exit *onExit) func(context.Context) error {
	return func(context.Context) error {
		data, err := openData(s.options.data)
		if err != nil {
			return err
		}
		s.data = data
		exit.add(data.close)
		s.onStop(func() error { data.close(); return nil })
		return nil
	}
}

// configure writes the configuration: devstack's own, the addresses, and over both what the user wants.
func (s *stack) configure(addresses settings) error {
	all := ownSettings(s.data, s.sim)
	all.merge(addresses)
	if s.config != "" {
		if err := all.mergeFile(s.config); err != nil {
			return err
		}
	}
	cfg, err := all.write(s.data.file(configFile))
	s.cfg = cfg
	return err
}

func (s *stack) startServers(ctx context.Context) error {
	// Once without addresses: it finds the user's mistakes before anything runs, and says which keys the stand-in serves.
	if err := s.configure(nil); err != nil {
		return err
	}
	nats, err := startNATS(s.natsAddr, s.data.file("nats"))
	if err != nil {
		return err
	}
	s.onStop(nats.Close)
	redis, err := startRedis(ctx, s.redisAddr, s.data.file("redis"), s.data.kept)
	if err != nil {
		return err
	}
	s.onStop(func() error { redis.stop(); return nil })
	p := s.cfg.PubNub
	apps, err := startPubNub(s.pubnubAddr, pubnubKeys{p.PublishKey, p.SubscribeKey, p.SecretKey.Reveal()})
	if err != nil {
		return err
	}
	s.onStop(func() error { apps.Close(); return nil })
	ops := s.opsAddr
	if !s.daemon { // whoever starts a consultd with this configuration wants to know where it will listen
		if ops, err = pickPort(ops); err != nil {
			return err
		}
	}
	if err := s.configure(settings{
		"nats":   settings{"urls": []any{nats.URL()}},
		"redis":  settings{"addr": redis.addr},
		"pubnub": settings{"origin": apps.Origin()},
		"ops":    settings{"addr": ops},
	}); err != nil {
		return err
	}
	s.redisKind = redis.kind
	s.ready = readiness{
		NATS: nats.URL(), Redis: redis.addr, PubNub: apps.URL(), Ops: "http://" + s.cfg.Ops.Addr,
		PublishKey: p.PublishKey, SubscribeKey: p.SubscribeKey, SecretKey: p.SecretKey.Reveal(),
		CipherKey: p.CipherKeys[0].Reveal(), OrganizationID: s.cfg.Organization, Config: s.data.file(configFile),
	}
	return nil
}

// startDaemon runs consultd inside this process, and waits until it is ready.
func (s *stack) startDaemon(ctx context.Context) error {
	if !s.daemon {
		return nil
	}
	watcher, err := watch(s.ready.NATS, s.screen)
	if err != nil {
		return err
	}
	s.watcher = watcher
	s.onStop(func() error { watcher.conn.Close(); return nil })

	file, err := os.OpenFile(s.data.file(daemonLogFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log of consultd: %w", err)
	}
	// The file is left open to the end of the process: connections say goodbye after the daemon has returned.
	log, err := daemonLog(s.cfg, file, s.screen, &s.phase)
	if err != nil {
		return err
	}
	d, err := daemon.New(s.cfg, log)
	if err != nil {
		return fmt.Errorf("consultd: %w", err)
	}
	s.daemonEnded = make(chan error, 1)
	s.background(func(ctx context.Context) { s.daemonEnded <- d.Run(ctx) })

	timeout := time.NewTimer(readyPatience)
	defer timeout.Stop()
	select {
	case <-d.Ready():
	case err := <-s.daemonEnded:
		return s.daemonFailed(err)
	case <-timeout.C:
		return fmt.Errorf("consultd is not ready after %s%s", readyPatience, s.logHint())
	case <-ctx.Done():
		return ctx.Err()
	}
	s.ready.Ops = "http://" + d.OpsAddr()
	return s.awaitReady(ctx, s.ready.Ops+"/readyz", timeout.C)
}

// logHint says where the daemon's log is, if it is still there afterwards.
func (s *stack) logHint() string {
	if s.data.kept {
		return "; see " + s.data.file(daemonLogFile)
	}
	return "; with --data DIR its log is kept"
}

// awaitReady waits until the daemon says that it can work.
func (s *stack) awaitReady(ctx context.Context, page string, timeout <-chan time.Time) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, page, http.NoBody)
		if err != nil {
			return fmt.Errorf("ask whether consultd is ready: %w", err)
		}
		answer, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case err := <-s.daemonEnded:
			return s.daemonFailed(err)
		case <-timeout:
			return fmt.Errorf("consultd is not ready after %s%s", readyPatience, s.logHint())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *stack) daemonFailed(err error) error {
	if err == nil {
		err = errors.New("ended by itself")
	}
	return fmt.Errorf("consultd: %w%s", err, s.logHint())
}

// startClinic lets patients and staff come online; they do nothing before announce.
func (s *stack) startClinic(ctx context.Context) error {
	if !s.sim {
		return nil
	}
	if !s.cfg.PubNub.Enabled {
		return errors.New("--sim=clinic needs pubnub.enabled: true in the configuration; or use --sim=off")
	}
	at, err := url.Parse(s.ready.PubNub)
	if err != nil {
		return fmt.Errorf("address of the stand-in: %w", err)
	}
	c, err := clinic.Start(ctx, clinic.Options{
		NATS: s.ready.NATS, Origin: at.Host,
		PublishKey: s.ready.PublishKey, SubscribeKey: s.ready.SubscribeKey, CipherKey: s.ready.CipherKey,
		Seed: s.seed, Pace: s.pace, Run: s.data.run,
		Complain: func(what string) { s.screen.at(time.Now(), yellow, "clinic: %s", what) },
	})
	if err != nil {
		return err
	}
	s.clinic = c
	s.onStop(func() error { c.Close(); return nil })
	return nil
}

// announce says that everything is up, and lets the visits begin.
func (s *stack) announce(context.Context) error {
	g := greeting{
		ready: s.ready, redis: s.redisKind, data: s.data.path, kept: s.data.kept, cipherKey: s.data.key(cipherKey),
		sim: s.sim, own: s.daemon,
	}
	if s.daemon {
		g.log = s.data.file(daemonLogFile)
	}
	s.phase.Store(int32(working))
	g.show(s.screen)
	if s.readyFile != "" {
		if err := s.ready.write(s.readyFile); err != nil {
			return err
		}
		s.onStop(func() error { return removeReady(s.readyFile) })
	}
	if s.watcher != nil {
		s.background(s.watcher.run)
	}
	if s.clinic != nil {
		s.background(s.clinic.Run)
	}
	return nil
}
