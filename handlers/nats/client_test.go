package nats

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"consultd/test/natsserver"
)

// lockedBuffer takes log lines from the client library's goroutines.
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

func TestConnectAuthenticates(t *testing.T) {
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := key.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		configure   func(*server.Options)
		good, wrong Options
	}{
		"user": {
			func(o *server.Options) { o.Users = []*server.User{{Username: "consultd", Password: "canary"}} },
			Options{User: "consultd", Password: "canary"},
			Options{User: "consultd", Password: "other-canary"},
		},
		"token": {
			func(o *server.Options) { o.Authorization = "canary" }, Options{Token: "canary"}, Options{Token: "other-canary"},
		},
		"nkey": {
			func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} }, Options{NKeySeed: string(seed)}, Options{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := natsserver.StartTB(t, natsserver.Options{Configure: test.configure})
			var log lockedBuffer
			test.good.URLs, test.wrong.URLs = []string{s.URL()}, []string{s.URL()}
			test.good.Logger, test.wrong.Logger = zerolog.New(&log), zerolog.New(&log)
			c, err := Connect(testContext(t), test.good)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			if _, err = Connect(testContext(t), test.wrong); !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("wrong credentials: %v", err)
			}
			if strings.Contains(err.Error()+log.String(), "canary") {
				t.Errorf("a secret in %q or %q", err, log.String())
			}
		})
	}
}

func TestConnectChecksOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no server":   {},
		"two ways in": {URLs: []string{"nats://127.0.0.1:1"}, User: "a", Token: "b"},
		"not a seed":  {URLs: []string{"nats://127.0.0.1:1"}, NKeySeed: "canary"},
	} {
		o.Logger = zerolog.Nop()
		if _, err := Connect(testContext(t), o); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestConnectWaitsForTheServer starts the server after the daemon.
func TestConnectWaitsForTheServer(t *testing.T) {
	s := natsserver.StartTB(t, natsserver.Options{})
	s.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := Connect(ctx, Options{URLs: []string{s.URL()}, Logger: zerolog.Nop()}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no server: %v", err)
	}
	connected := make(chan error, 1)
	o := Options{URLs: []string{s.URL()}, Logger: zerolog.Nop()}
	go func() {
		c, err := Connect(testContext(t), o)
		if err == nil {
			c.Close()
		}
		connected <- err
	}()
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	if err := <-connected; err != nil {
		t.Fatal(err)
	}
}
