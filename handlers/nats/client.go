// Package nats is everything that consultd does with NATS: connections, streams, the log of each lane, publishing,
// the audit stream with its notary, shared cells, and dead letters. It never decides anything about a visit, and it
// never looks into a message's body except for audit entries and dead letters, which hold no patient data.
package nats

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"
)

// Timing of connections. A dead peer is noticed after at most pingInterval*(pingsOutstanding+1); a page may wait for
// that, so the client library's two minutes are far too long.
const (
	dialTimeout      = 2 * time.Second
	reconnectWait    = 100 * time.Millisecond
	reconnectJitter  = 50 * time.Millisecond
	pingInterval     = time.Second
	pingsOutstanding = 2
	requestTimeout   = 2 * time.Second // of one JetStream API request whose context has no deadline
	ackTimeout       = 2 * time.Second // until an unacknowledged publication counts as failed
	asyncPending     = 16384           // publications on the way at once, per connection
	retryPause       = 50 * time.Millisecond
	maxRetryPause    = time.Second
)

// Options says how to reach NATS. At most one way to authenticate may be set.
type Options struct {
	URLs []string // e.g. nats://host:4222, tls://host:4222; at least one
	Name string   // shown in the server's connection list, e.g. "consultd replica-1 emergency"

	CredentialsFile string // JWT and nkey seed in one file
	NKeySeed        string // SU...
	User, Password  string
	Token           string

	TLS               bool   // require TLS even when the URL does not say tls://
	CAFile            string // authorities to trust instead of the system's
	CertFile, KeyFile string // client certificate
	ServerName        string // expected in the server's certificate, when it differs from the address

	Logger zerolog.Logger
}

// Client is one connection. Open one per lane, so that a flood of check-ins cannot stand in front of a page on the wire.
type Client struct {
	Conn *nats.Conn
	JS   jetstream.JetStream
	log  zerolog.Logger
}

// Connect opens a connection, trying until ctx ends; refused credentials end it at once. From then on the connection
// comes back by itself, for ever. While it is away, publishing fails immediately instead of filling a buffer: whoever
// publishes here knows how to repeat, and nothing leaves behind a caller who was told that it failed.
func Connect(ctx context.Context, o Options) (*Client, error) {
	opts, err := o.connectOptions()
	if err != nil {
		return nil, err
	}
	pause := retryPause
	for {
		nc, err := nats.Connect(strings.Join(o.URLs, ","), opts...)
		if err == nil {
			js, err := jetstream.New(nc,
				jetstream.WithDefaultTimeout(requestTimeout),
				jetstream.WithPublishAsyncTimeout(ackTimeout),
				jetstream.WithPublishAsyncMaxPending(asyncPending))
			if err != nil {
				nc.Close()
				return nil, fmt.Errorf("jetstream: %w", err)
			}
			return &Client{Conn: nc, JS: js, log: o.Logger}, nil
		}
		if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) {
			return nil, fmt.Errorf("connect to nats: %w: check the configured credentials", err)
		}
		var tlsErr *tls.CertificateVerificationError
		if errors.As(err, &tlsErr) {
			return nil, fmt.Errorf("connect to nats: %w: check the configured CA file", err)
		}
		o.Logger.Warn().Err(err).Msg("NATS is not reachable yet")
		if !sleep(ctx, pause) {
			return nil, fmt.Errorf("connect to nats: %w (%w)", err, ctx.Err())
		}
		pause = min(2*pause, maxRetryPause)
	}
}

// Close closes the connection at once. Whoever uses it gets errors.
func (c *Client) Close() { c.Conn.Close() }

func (o Options) connectOptions() ([]nats.Option, error) {
	if len(o.URLs) == 0 {
		return nil, errors.New("nats: no server URL is configured")
	}
	ways := 0
	for _, set := range []bool{o.CredentialsFile != "", o.NKeySeed != "", o.User != "", o.Token != ""} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		return nil, errors.New("nats: more than one of credentials file, nkey seed, user and token is configured: keep one")
	}
	log := o.Logger
	opts := []nats.Option{
		nats.Name(o.Name),
		nats.Timeout(dialTimeout),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(pingsOutstanding),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) {
			if nc.IsClosed() {
				return
			}
			log.Warn().Err(err).Msg("NATS connection lost; reconnecting")
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			log.Info().Str("server", nc.ConnectedUrlRedacted()).Msg("NATS connection is back")
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			line := log.Error().Err(err)
			if sub != nil {
				line = line.Str("subject", sub.Subject)
			}
			line.Msg("NATS reported an error")
		}),
	}
	switch {
	case o.CredentialsFile != "":
		opts = append(opts, nats.UserCredentials(o.CredentialsFile))
	case o.NKeySeed != "":
		key, err := nkeys.FromSeed([]byte(o.NKeySeed))
		if err != nil {
			return nil, fmt.Errorf("nats nkey seed: %w", err)
		}
		public, err := key.PublicKey()
		if err != nil {
			return nil, fmt.Errorf("nats nkey seed: %w", err)
		}
		opts = append(opts, nats.Nkey(public, key.Sign))
	case o.User != "":
		opts = append(opts, nats.UserInfo(o.User, o.Password))
	case o.Token != "":
		opts = append(opts, nats.Token(o.Token))
	}
	if o.TLS || o.ServerName != "" {
		opts = append(opts, nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName}))
	}
	if o.CAFile != "" {
		opts = append(opts, nats.RootCAs(o.CAFile))
	}
	if o.CertFile != "" {
		opts = append(opts, nats.ClientCert(o.CertFile, o.KeyFile))
	}
	return opts, nil
}

// sleep waits for d and says whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
