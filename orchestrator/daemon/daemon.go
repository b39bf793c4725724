// Package daemon wires consultd together, in one straight line, from a configuration: connections, streams, store, codec,
// engine, PubNub, audit and the operations pages. It decides nothing and keeps no state beside the parts it starts, and it
// can be started on port zero by a test.
package daemon

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"consultd/config"
	"consultd/handlers"
	"consultd/handlers/nats"
	"consultd/handlers/oncall"
	"consultd/handlers/ops"
	"consultd/handlers/pubnub"
	"consultd/orchestrator"
	"consultd/states"
	"consultd/store"
)

// outboxBound is how many undelivered commits a partition may have with one sink before it pauses.
const outboxBound = 20_000

// commitBatch is how many commits travel together at most. Redis works off one client's pipeline before it looks at the
// next client, so this bounds how long an emergency's commit waits behind a flood of others.
const commitBatch = 32

// Daemon is one replica.
type Daemon struct {
	cfg      *config.Config
	log      zerolog.Logger
	owner    string
	registry *prometheus.Registry
	ready    chan struct{}
	ops      *ops.Server
}

// New checks what can be checked without a connection.
func New(cfg *config.Config, log zerolog.Logger) (*Daemon, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "consultd"
	}
	d := &Daemon{
		cfg:      cfg,
		owner:    host + "." + strings.ToLower(ulid.Make().String()),
		registry: ops.NewRegistry(),
		ready:    make(chan struct{}),
	}
	d.log = log.With().Str("replica", d.owner).Logger()
	if err := states.Verify(); err != nil {
		return nil, fmt.Errorf("transition tables: %w", err)
	}
	if _, err := store.NewSealer([]byte(cfg.Sealing.Keyset.Reveal())); err != nil {
		return nil, fmt.Errorf("sealing keyset: %w", err)
	}
	return d, nil
}

// Ready is closed once every part runs.
func (d *Daemon) Ready() <-chan struct{} { return d.ready }

// OpsAddr is where the operations pages listen; valid once Ready is closed.
func (d *Daemon) OpsAddr() string { return d.ops.Addr() }

// parts are what Run builds, in the order in which it builds them.
type parts struct {
	connections map[states.Lane]*nats.Client
	logs        map[states.Lane]*nats.Log
	stores      map[states.Lane]*store.Store
	ring        *pubnub.KeyRing
	codec       *handlers.Codec
	apps        map[states.Lane]*pubnub.Publisher // nil without PubNub
	ingests     map[states.Lane]*pubnub.Ingest
	onCall      *oncall.Source
	engine      *orchestrator.Engine
	notary      *nats.Notary
	projector   *nats.Projector
	closers     []func()
}

func (p *parts) close() {
	for i := len(p.closers) - 1; i >= 0; i-- {
		p.closers[i]()
	}
}

// Run starts everything, works until ctx ends, and stops in two breaths: first what lets new work in, then, once what is
// in hand is committed and delivered or the deadline has passed, everything else. What is left over is done by the next
// owner. The operations pages close last.
func (d *Daemon) Run(ctx context.Context) error {
	relaxCollector()
	var built atomic.Pointer[parts]
	d.ops = ops.New(ops.Options{
		Addr: d.cfg.Ops.Addr, Registry: d.registry, Checks: d.checks(&built), Pprof: d.cfg.Ops.Pprof,
		Log: d.log.With().Str("component", "ops").Logger(),
	})
	if err := d.ops.Start(ctx); err != nil {
		return err
	}
	defer func() { _ = d.ops.Close(context.WithoutCancel(ctx)) }()
	p := &parts{}
	defer p.close()
	if err := d.build(ctx, p); err != nil {
		return err
	}
	built.Store(p)

	inflow, stopInflow := context.WithCancel(context.Background()) // what lets work in
	work, stopWork := context.WithCancel(context.Background())     // what finishes it
	rest, stopRest := context.WithCancel(context.Background())     // what looks after the results
	defer stopRest()
	defer stopWork()
	defer stopInflow()
	var group errgroup.Group
	failed := make(chan struct{}, 8)
	start := func(ctx context.Context, name string, run func(context.Context) error) <-chan struct{} {
		ended := make(chan struct{})
		group.Go(func() error {
			defer close(ended)
			err := run(ctx)
			if err == nil || ctx.Err() != nil {
				return nil
			}
			failed <- struct{}{}
			return fmt.Errorf("%s: %w", name, err)
		})
		return ended
	}
	start(rest, "audit notary", func(ctx context.Context) error { d.notarize(ctx, p.notary); return nil })
	if p.projector != nil {
		start(rest, "audit projection", func(ctx context.Context) error { return p.projector.Run(ctx, p.apps[states.LaneNormal].Publish) })
	}
	if p.onCall != nil {
		start(rest, "on-call source", func(ctx context.Context) error { p.onCall.Run(ctx); return nil })
	}
	engineEnded := start(work, "engine", p.engine.Run)
	var ingestsEnded []<-chan struct{}
	for lane, ingest := range p.ingests {
		ingestsEnded = append(ingestsEnded, start(inflow, "pubnub "+lanes[lane], ingest.Run))
	}
	close(d.ready)
	d.log.Info().Str("ops", d.ops.Addr()).Msg("consultd is up")

	select {
	case <-ctx.Done():
		d.log.Info().Msg("stopping: letting nothing new in")
	case <-failed:
		d.log.Error().Msg("stopping: a part failed")
	}
	d.ops.SetDraining()
	stopInflow()
	for _, ended := range ingestsEnded {
		<-ended
	}
	d.log.Info().Stringer("deadline", d.cfg.Shutdown.Drain).Msg("stopping: finishing what is in hand")
	stopWork()
	<-engineEnded
	stopRest()
	err := group.Wait()
	d.log.Info().Msg("stopped")
	return err
}

// notarize seals the audit trail until ctx ends. A trail that cannot be sealed is for an operator to look at and no reason
// to stop paging; the entries stay, and are sealed later.
func (d *Daemon) notarize(ctx context.Context, notary *nats.Notary) {
	for {
		if err := notary.Run(ctx); err != nil {
			d.log.Error().Err(err).Msg("audit trail is not sealed; trying again in a minute")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Minute):
		}
	}
}

func (d *Daemon) build(ctx context.Context, p *parts) error {
	for _, step := range []struct {
		name  string
		build func(context.Context, *parts) error
	}{
		{"nats", d.buildNATS},
		{"redis", d.buildStores},
		{"codec", d.buildCodec},
		{"pubnub", d.buildPubNub},
		{"on-call source", d.buildOnCall},
		{"engine", d.buildEngine},
		{"audit", d.buildAudit},
	} {
		if err := step.build(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

func (d *Daemon) buildNATS(ctx context.Context, p *parts) error {
	p.connections, p.logs = map[states.Lane]*nats.Client{}, map[states.Lane]*nats.Log{}
	for lane, name := range lanes {
		c, err := nats.Connect(ctx, d.natsOptions(name))
		if err != nil {
			return err
		}
		p.closers = append(p.closers, c.Close)
		p.connections[lane] = c
		log := d.log.With().Str("component", "log").Str("lane", name).Logger()
		p.logs[lane] = nats.NewLog(c, lane, func(lost *nats.LostError) error {
			log.Error().Uint64("entries", lost.Lost()).Msg("entries have aged out of the log unread; going on with the first one left")
			return nil
		})
	}
	return nats.Reconcile(ctx, p.connections[states.LaneNormal].JS, streamOptions(d.cfg.NATS))
}

// lanes are the lanes with their names for people.
var lanes = map[states.Lane]string{states.LaneNormal: "normal", states.LaneEmergency: "emergency"}

func (d *Daemon) natsOptions(lane string) nats.Options {
	return NATSOptions(d.cfg, "consultd "+lane, d.log)
}

// NATSOptions are the connection settings of a configuration, for the daemon and for the operator's commands.
func NATSOptions(cfg *config.Config, name string, log zerolog.Logger) nats.Options {
	c := cfg.NATS
	return nats.Options{
		URLs: c.URLs, Name: name,
		CredentialsFile: c.CredentialsFile, NKeySeed: c.NKeySeed.Reveal(),
		User: c.User, Password: c.Password.Reveal(), Token: c.Token.Reveal(),
		TLS: c.TLS.Enabled, CAFile: c.TLS.CAFile, CertFile: c.TLS.CertFile, KeyFile: c.TLS.KeyFile, ServerName: c.TLS.ServerName,
		Logger: log.With().Str("component", "nats").Logger(),
	}
}

func streamOptions(c config.NATS) nats.StreamOptions {
	return nats.StreamOptions{
		Replicas: c.Replicas, Duplicates: c.DuplicateWindow,
		LogAge: c.MaxAge.Log, EmergencyAge: c.MaxAge.Emergency, OutAge: c.MaxAge.Out, PagesAge: c.MaxAge.Pages,
		DeadAge: c.MaxAge.Dead, AuditAge: c.MaxAge.Audit,
	}
}

func (d *Daemon) buildStores(ctx context.Context, p *parts) error {
	p.stores = map[states.Lane]*store.Store{}
	for lane := range lanes {
		s, err := OpenStore(ctx, d.cfg, d.log)
		if err != nil {
			return err
		}
		p.closers = append(p.closers, func() { _ = s.Close() })
		p.stores[lane] = s
	}
	return nil
}

// OpenStore opens the store of a configuration, waiting for Redis until ctx ends.
func OpenStore(ctx context.Context, cfg *config.Config, log zerolog.Logger) (*store.Store, error) {
	sealer, err := store.NewSealer([]byte(cfg.Sealing.Keyset.Reveal()))
	if err != nil {
		return nil, err
	}
	var security *tls.Config
	if cfg.Redis.TLS.Enabled {
		if security, err = cfg.Redis.TLS.Client(); err != nil {
			return nil, err
		}
	}
	o := store.Options{
		Addrs: []string{cfg.Redis.Addr}, Username: cfg.Redis.Username, Password: cfg.Redis.Password.Reveal(), DB: cfg.Redis.DB,
		TLS: security, Organization: cfg.Organization, Sealer: sealer, Log: log, Batch: commitBatch,
		AllowEviction: cfg.Environment == config.Development,
	}
	for {
		s, err := store.Open(ctx, o)
		var away *store.Unavailable
		if err == nil || !errors.As(err, &away) || ctx.Err() != nil {
			return s, err
		}
		log.Warn().Err(err).Msg("Redis does not answer yet")
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(500 * time.Millisecond):
		}
	}
}

func (d *Daemon) buildCodec(_ context.Context, p *parts) error {
	o := handlers.Options{
		Organization: d.cfg.Organization,
		APNSTopic:    d.cfg.Push.APNSTopic, APNSEnvironment: d.cfg.Push.APNSEnvironment, LegacyGCM: d.cfg.Push.GCM,
	}
	if keys := d.cfg.PubNub.CipherKeys; d.cfg.PubNub.Enabled && len(keys) > 0 {
		var previous []string
		for _, k := range keys[1:] {
			previous = append(previous, k.Reveal())
		}
		ring, err := pubnub.NewKeyRing(keys[0].Reveal(), previous...)
		if err != nil {
			return err
		}
		p.ring = ring
		o.Decrypt = ring.Decrypt
	}
	codec, err := handlers.New(o)
	p.codec = codec
	return err
}

func (d *Daemon) buildOnCall(_ context.Context, p *parts) error {
	c := d.cfg.Escalation
	if c.Source.URL == "" {
		return nil
	}
	departments := make([]string, 0, len(c.OnCall))
	for department := range c.OnCall {
		departments = append(departments, department)
	}
	source, err := oncall.New(oncall.Options{
		URL: c.Source.URL, Token: c.Source.Token.Reveal(), Timeout: c.Source.Timeout,
		Cache: c.Source.Cache, Refresh: time.Minute, Departments: departments,
		Append: p.logs[states.LaneEmergency].Append,
		Log:    d.log.With().Str("component", "oncall").Logger(),
	})
	p.onCall = source
	return err
}

func (d *Daemon) buildEngine(ctx context.Context, p *parts) error {
	o := orchestrator.Options{
		Owner: d.owner, Lease: d.cfg.Redis.Lease, Drain: d.cfg.Shutdown.Drain,
		Rules: d.cfg.Rules(), Codec: p.codec, Metrics: orchestrator.NewMetrics(d.registry), Log: d.log,
	}
	for lane, number := range map[states.Lane]int{states.LaneNormal: d.cfg.Partitions.Normal, states.LaneEmergency: d.cfg.Partitions.Emergency} {
		c := p.connections[lane]
		marks, err := nats.NewMarks(ctx, c.JS, nats.StreamOf(lane), number)
		if err != nil {
			return err
		}
		broker := nats.NewPublisher(c)
		sinks := map[states.Sink]orchestrator.Publisher{states.SinkNATS: broker, states.SinkAudit: nats.NewAudit(c)}
		if p.apps != nil {
			sinks[states.SinkPubNub] = p.apps[lane]
		}
		if p.onCall != nil {
			sinks[states.SinkAsk] = p.onCall
		}
		deciders := 0
		if lane == states.LaneNormal {
			deciders = runtime.GOMAXPROCS(0)
		}
		o.Lanes = append(o.Lanes, orchestrator.LaneOptions{
			Deciders: deciders, Connected: c.Conn.IsConnected,
			Lane: lane, Partitions: number, Log: p.logs[lane], Store: p.stores[lane],
			Sinks: sinks, Marks: marks, Dead: broker, Backlog: outboxBound,
		})
	}
	engine, err := orchestrator.New(o)
	p.engine = engine
	return err
}

func (d *Daemon) buildAudit(_ context.Context, p *parts) error {
	var key ed25519.PrivateKey
	trusted, err := d.cfg.Audit.PublicKeys()
	if err != nil {
		return err
	}
	if !d.cfg.Audit.SigningKey.Empty() {
		if key, err = d.cfg.Audit.Key(); err != nil {
			return err
		}
	}
	c := p.connections[states.LaneNormal]
	p.notary = nats.NewNotary(c, nats.NotaryOptions{
		Key: key, Trusted: trusted, Every: d.cfg.Audit.CheckpointEvery, Entries: d.cfg.Audit.CheckpointEntries, Log: d.log,
	})
	if p.apps != nil {
		p.projector = nats.NewProjector(c, d.cfg.Organization, d.log)
	}
	return nil
}
