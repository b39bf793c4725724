// Package clinic gives tests a whole clinic on real servers: Redis, NATS with JetStream, the PubNub stand-in, consultd
// itself (in the test's process, or as a child that can be killed), a backend, people with apps and pagers, and an
// observer that sees everything said on the brokers. It takes no part in what it observes.
package clinic

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"consultd/config"
	"consultd/store"
	"consultd/test/natsserver"
	"consultd/test/pubnub"
	"consultd/test/redis"
)

// CipherKey is what the clinic's apps encrypt with.
const CipherKey = "cipher-key-of-the-test-clinic"

// Organization is the clinic's name.
const Organization = "test-clinic"

// patience bounds every wait for something that must happen.
const patience = 45 * time.Second

// Clinic is the servers and the configuration that leads to them.
type Clinic struct {
	tb     testing.TB
	Redis  *redis.Server
	NATS   *natsserver.Server
	PubNub *pubnub.Server
	Wire   *Wire // between consultd and Redis; nil unless Options.Wire

	ConfigFile string
	Config     *config.Config
	dir        string
}

// Options change what Start makes.
type Options struct {
	Redis redis.Options
	NATS  natsserver.Options
	// PubNub configures the stand-in.
	PubNub pubnub.Config
	// Extra is YAML laid over the clinic's configuration: whole top-level sections that it does not set itself
	// (timing, escalation, directory, partitions, audit).
	Extra string
	// WithoutPubNub leaves the apps out.
	WithoutPubNub bool
	// Lease is how long a silent replica keeps its partitions; 1s when zero.
	Lease time.Duration
	// Wire puts a Wire between consultd and Redis.
	Wire bool
}

// Start starts the servers and writes the configuration; all ends with the test. Call Run or Spawn for consultd itself.
func Start(tb testing.TB, o Options) *Clinic {
	tb.Helper()
	c := &Clinic{tb: tb, dir: tb.TempDir()}
	if o.NATS.StoreDir == "" {
		o.NATS.StoreDir = filepath.Join(c.dir, "nats")
	}
	c.NATS = natsserver.StartTB(tb, o.NATS)
	c.Redis = redis.ForTest(tb, o.Redis)
	if !o.WithoutPubNub {
		server, err := pubnub.Start(o.PubNub)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(server.Close)
		c.PubNub = server
	}
	if o.Wire {
		c.Wire = startWire(tb, c.Redis.Addr())
	}
	c.writeConfig(o)
	return c
}

func (c *Clinic) writeConfig(o Options) {
	c.tb.Helper()
	keyset, err := store.GenerateKeyset()
	if err != nil {
		c.tb.Fatal(err)
	}
	secret := func(name string, data []byte) string {
		path := filepath.Join(c.dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			c.tb.Fatal(err)
		}
		return "file:" + path
	}
	address := c.Redis.Addr()
	if c.Wire != nil {
		address = c.Wire.Addr()
	}
	if o.Lease == 0 {
		o.Lease = time.Second
	}
	text := fmt.Sprintf(`organization: %s
environment: development
nats: {urls: [%q]}
redis: {addr: %q, lease: %s}
sealing: {keyset: %q}
ops: {addr: "127.0.0.1:0"}
shutdown: {drain: 5s}
`, Organization, c.NATS.URL(), address, o.Lease, secret("keyset", keyset))
	if c.PubNub != nil {
		p := c.PubNub.Config()
		text += fmt.Sprintf(`pubnub: {enabled: true, secure: false, origin: %q, publish_key: %q, subscribe_key: %q, secret_key: %q, cipher_keys: [%q]}
`, c.PubNub.Origin(), p.PublishKey, p.SubscribeKey, p.SecretKey, CipherKey)
	}
	for section, fallback := range sections {
		if !hasSection(o.Extra, section) {
			text += fallback
		}
	}
	text += o.Extra
	c.ConfigFile = filepath.Join(c.dir, "consultd.yaml")
	if err := os.WriteFile(c.ConfigFile, []byte(text), 0o600); err != nil {
		c.tb.Fatal(err)
	}
	if c.Config, err = config.Load(c.ConfigFile); err != nil {
		c.tb.Fatalf("configuration of the test clinic: %v", err)
	}
}

// sections are what a clinic has unless Options.Extra says otherwise.
var sections = map[string]string{
	"audit":      "audit: {signing_key: \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\", checkpoint_every: 1s, checkpoint_entries: 100}\n",
	"partitions": "partitions: {normal: 16, emergency: 4}\n",
	"directory":  "directory: {staff: {nurse-lee: nurse, desk-1: front-desk, dr-chen: on-call, dr-silva: on-call, supervisor-1: on-call}}\n",
	"escalation": "escalation: {on_call: {cardiology: [dr-chen, dr-silva]}, failsafe: [supervisor-1], transports: [sms], default_department: cardiology}\n",
}

// Eventually waits until the condition holds, and fails the test with what it last said when it does not in time.
func (c *Clinic) Eventually(what string, condition func() (ok bool, said string)) {
	c.tb.Helper()
	poll(c.tb, 40*time.Millisecond, what, condition) // often something expensive
}

// eventually waits until the condition holds, and fails the test with what it last said when it does not in time.
func eventually(tb testing.TB, what string, condition func() (bool, string)) {
	tb.Helper()
	poll(tb, 5*time.Millisecond, what, condition)
}

func poll(tb testing.TB, every time.Duration, what string, condition func() (bool, string)) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := ""
	for {
		ok, said := condition()
		if ok {
			return
		}
		last = said
		select {
		case <-ctx.Done():
			tb.Fatalf("%s did not happen within %s: %s", what, patience, last)
		case <-tick.C:
		}
	}
}
