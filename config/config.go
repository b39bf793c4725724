// Package config says how this clinic wants the daemon to run: one struct with defaults, filled from a YAML file and then
// from the environment, checked as a whole. It never opens a connection and never prints a secret.
package config

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"time"

	"consultd/states"
)

// The comments of the fields below are the meanings printed in docs/config.md; a test keeps the two equal.

// Config is everything that can be configured. The zero value is of no use; start from Default.
type Config struct {
	// Name of the organisation that this daemon serves, at most 32 letters, digits, `_` or `-`. Part of every Redis key and of the channel `audit.{organization}`. Required.
	Organization string `yaml:"organization"`
	// `production` refuses plaintext connections and missing keys; `development` only warns.
	Environment Environment `yaml:"environment"`
	Log         Log         `yaml:"log"`
	NATS        NATS        `yaml:"nats"`
	Redis       Redis       `yaml:"redis"`
	PubNub      PubNub      `yaml:"pubnub"`
	Sealing     Sealing     `yaml:"sealing"`
	Audit       Audit       `yaml:"audit"`
	Partitions  Partitions  `yaml:"partitions"`
	Timing      Timing      `yaml:"timing"`
	Directory   Directory   `yaml:"directory"`
	Escalation  Escalation  `yaml:"escalation"`
	Push        Push        `yaml:"push"`
	Ops         Ops         `yaml:"ops"`
	Shutdown    Shutdown    `yaml:"shutdown"`

	warnings []Problem
}

// Environment says how strict the checks are.
type Environment string

// The environments.
const (
	Development Environment = "development"
	Production  Environment = "production"
)

// Log is the daemon's own log on standard error. It never holds payloads.
type Log struct {
	// Least level that is written: `trace`, `debug`, `info`, `warn` or `error`.
	Level string `yaml:"level"`
	// Readable lines instead of JSON.
	Console bool `yaml:"console"`
}

// NATS is the log of all inputs and one of the two ways out.
type NATS struct {
	// Servers of one cluster, `nats://` or `tls://`.
	URLs []string `yaml:"urls"`
	// File with a NATS user's JWT and key (`.creds`).
	CredentialsFile string `yaml:"credentials_file"`
	// User name, where the server knows passwords.
	User string `yaml:"user"`
	// Password of the user.
	Password Secret `yaml:"password"`
	// Token, where the server knows tokens.
	Token Secret `yaml:"token"`
	// Seed of an nkey user (`SU...`).
	NKeySeed Secret `yaml:"nkey_seed"`
	TLS      TLS    `yaml:"tls"`
	// Copies of every stream: 1, 3 or 5. "Accepted" survives the loss of a server only with 3 or more.
	Replicas int `yaml:"replicas"`
	// A message with an id that was seen within this time is dropped by the log itself.
	DuplicateWindow time.Duration `yaml:"duplicate_window"`
	MaxAge          MaxAge        `yaml:"max_age"`
}

// MaxAge is how long each stream keeps its entries.
type MaxAge struct {
	// Entries of the normal log. Must be longer than any Redis backup is old, because a rebuild reads from it.
	Log time.Duration `yaml:"log"`
	// Entries of the emergency log; the same holds.
	Emergency time.Duration `yaml:"emergency"`
	// Messages to the backend.
	Out time.Duration `yaml:"out"`
	// Pages and emergency messages to the gateways.
	Pages time.Duration `yaml:"pages"`
	// Dead letters.
	Dead time.Duration `yaml:"dead"`
	// Audit entries; `0` keeps them for ever. Six years is what HIPAA asks for.
	Audit time.Duration `yaml:"audit"`
}

// TLS is how one connection is encrypted.
type TLS struct {
	// Encrypt the connection. Implied for NATS by a `tls://` URL.
	Enabled bool `yaml:"enabled"`
	// File with the authorities to trust instead of the system's.
	CAFile string `yaml:"ca_file"`
	// Client certificate file.
	CertFile string `yaml:"cert_file"`
	// Key file of the client certificate.
	KeyFile string `yaml:"key_file"`
	// Name expected in the server's certificate, when it differs from the address.
	ServerName string `yaml:"server_name"`
}

// Redis keeps the state of the visits.
type Redis struct {
	// `host:port`, or the path of a Unix socket.
	Addr string `yaml:"addr"`
	// ACL user name.
	Username string `yaml:"username"`
	// Password of the user.
	Password Secret `yaml:"password"`
	// Database number.
	DB  int `yaml:"db"`
	TLS TLS `yaml:"tls"`
	// How long a replica that stopped keeps its partitions before another takes them, at least `1s`. The worst delay of a page after a crash is about twice this.
	Lease time.Duration `yaml:"lease"`
}

// PubNub is how the apps are reached.
type PubNub struct {
	// Whether the daemon speaks to PubNub at all. Without it only NATS is served.
	Enabled bool `yaml:"enabled"`
	// Host of the service, `host` or `host:port`.
	Origin string `yaml:"origin"`
	// HTTPS. Only a local stand-in does without.
	Secure bool `yaml:"secure"`
	// Key that publishes.
	PublishKey string `yaml:"publish_key"`
	// Key that subscribes.
	SubscribeKey string `yaml:"subscribe_key"`
	// Key that grants and revokes access. The messaging client never gets it.
	SecretKey Secret `yaml:"secret_key"`
	// Access token of the daemon's own messaging client.
	Token Secret `yaml:"token"`
	// User id of the daemon. Messages that carry it are the daemon's own and are not read back.
	UserID string `yaml:"user_id"`
	// Keys of message encryption: the first one writes, all of them read.
	CipherKeys []Secret `yaml:"cipher_keys"`
	// What to subscribe to: names, or a prefix that ends in `.*`.
	Channels []string `yaml:"channels"`
	// Channels on which an unencrypted message is accepted: names, or a prefix that ends in `.*`.
	ClearChannels []string `yaml:"clear_channels"`
}

// Sealing is the encryption of patients' data at rest.
type Sealing struct {
	// Tink keyset in JSON, as `consultd keys generate` prints it. Required. Keep old keys in it for as long as data sealed with them exists.
	Keyset Secret `yaml:"keyset"`
}

// Audit is the signing of the audit trail.
type Audit struct {
	// Ed25519 seed, 32 bytes in base64, that signs the checkpoints.
	SigningKey Secret `yaml:"signing_key"`
	// Public keys, in base64, of the signing keys before this one. Checkpoints made with them stay valid.
	PreviousKeys []string `yaml:"previous_keys"`
	// A checkpoint is signed at least this often while there are new entries.
	CheckpointEvery time.Duration `yaml:"checkpoint_every"`
	// A checkpoint is signed at the latest after this many entries.
	CheckpointEntries int `yaml:"checkpoint_entries"`
}

// Key is the private key of the seed in SigningKey.
func (a Audit) Key() (ed25519.PrivateKey, error) {
	seed, err := base64.StdEncoding.DecodeString(a.SigningKey.Reveal())
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("audit signing key: not %d bytes in base64; make one with consultd keys generate", ed25519.SeedSize)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}

// PublicKeys are the keys whose signatures count: that of SigningKey, if there is one, and the previous ones.
func (a Audit) PublicKeys() ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	if !a.SigningKey.Empty() {
		private, err := a.Key()
		if err != nil {
			return nil, err
		}
		if public, ok := private.Public().(ed25519.PublicKey); ok {
			keys = append(keys, public)
		}
	}
	for i, text := range a.PreviousKeys {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("audit previous key %d: not %d bytes in base64", i, ed25519.PublicKeySize)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Partitions cuts the two logs into slices that replicas share. The numbers must be the same on every replica, and
// changing them means a rebuild.
type Partitions struct {
	// Slices of the normal log, by provider.
	Normal int `yaml:"normal"`
	// Slices of the emergency log, by department.
	Emergency int `yaml:"emergency"`
}

// Timing holds the durations of a visit. A duration of `0` switches its timer off.
type Timing struct {
	// How long before the appointment a patient may check in; `0` means at any time.
	CheckInOpens time.Duration `yaml:"check_in_opens"`
	// After the appointment's start without a check-in the visit is a no-show.
	NoShow time.Duration `yaml:"no_show"`
	// After check-in until patient and front desk are nudged about the device check.
	Readiness time.Duration `yaml:"readiness"`
	// Since check-in: first tell the patient, then provider and desk, then the supervisor. Ascending.
	LongWait []time.Duration `yaml:"long_wait"`
	// In the waiting room until the visit counts as left without being seen.
	WaitLimit time.Duration `yaml:"wait_limit"`
	// While connecting, until both sides are reminded.
	ConnectSoft time.Duration `yaml:"connect_soft"`
	// While connecting, until the attempt is given up.
	ConnectHard time.Duration `yaml:"connect_hard"`
	// On hold without the provider, until the provider is called back.
	ProviderDrop time.Duration `yaml:"provider_drop"`
	// On hold after the patient left, until wrapping up.
	PatientDrop time.Duration `yaml:"patient_drop"`
	// On hold without anybody, until wrapping up.
	BothAbsent time.Duration `yaml:"both_absent"`
	// While wrapping up, until the provider is reminded of the notes.
	WrapUpSoft time.Duration `yaml:"wrap_up_soft"`
	// While wrapping up, until the visit is completed with its notes pending.
	WrapUpHard time.Duration `yaml:"wrap_up_hard"`
	// A message that claims to be from further ahead is refused.
	MaxFuture time.Duration `yaml:"max_future"`
	// A message that claims to be from further back is refused.
	MaxPast time.Duration `yaml:"max_past"`
	// How long Redis remembers a visit or an escalation after its end.
	KeepClosed time.Duration `yaml:"keep_closed"`
}

// Directory knows people by the user ids that the brokers authenticate.
type Directory struct {
	// User id to role: `nurse`, `front-desk`, `on-call`, `provider`, `backend` or `operator`.
	Staff map[string]states.Role `yaml:"staff"`
}

// Escalation says who is paged in an emergency.
type Escalation struct {
	// Department to the people on call. Used while no source is configured.
	OnCall map[string][]string `yaml:"on_call"`
	Source OnCallSource        `yaml:"source"`
	// People or desks paged when nobody is on call, and when nobody answers. Keep it independent of every rota.
	Failsafe []string `yaml:"failsafe"`
	// Gateways that get pages, each under `consult.out.page.{transport}.{user}`.
	Transports []string `yaml:"transports"`
	// Severity to the time until an unanswered page is repeated.
	RePage map[states.Severity]time.Duration `yaml:"re_page"`
	// Rounds without an answer before the failsafe is paged as well.
	FailsafeAfter int `yaml:"failsafe_after"`
	// Department that is paged for an emergency raised inside a visit that is not known.
	DefaultDepartment string `yaml:"default_department"`
}

// OnCallSource is the HTTP service that knows who is on call.
type OnCallSource struct {
	// Address with `{departmentId}` in it, such as `https://rota.example/api/on-call/{departmentId}`. Empty: `on_call` is used.
	URL string `yaml:"url"`
	// How long one question may take before the last known answer or the failsafe is used.
	Timeout time.Duration `yaml:"timeout"`
	// How long the last known answer may stand in when the source is away.
	Cache time.Duration `yaml:"cache"`
	// Bearer token for the source.
	Token Secret `yaml:"token"`
}

// Push is what goes into messages for the mobile push gateways.
type Push struct {
	// APNs topic (the app's bundle id). Empty: no push keys for Apple devices.
	APNSTopic string `yaml:"apns_topic"`
	// APNs environment: `development` or `production`.
	APNSEnvironment string `yaml:"apns_environment"`
	// Also write the old `pn_gcm` key, for apps that have not moved to FCM.
	GCM bool `yaml:"gcm"`
}

// Ops is the HTTP server for health and metrics.
type Ops struct {
	// Address of `/healthz`, `/readyz` and `/metrics`; port 0 takes a free one. It has no authentication: keep it inside.
	Addr string `yaml:"addr"`
	// Serve `/debug/pprof/`. Only on a loopback address.
	Pprof bool `yaml:"pprof"`
}

// Shutdown is how the daemon stops.
type Shutdown struct {
	// How long what is in hand may take to finish, outboxes included. What is left is done after the next start.
	Drain time.Duration `yaml:"drain"`
}

// Default is the configuration that a file starts from. It lacks an organisation.
func Default() *Config {
	const day = 24 * time.Hour
	return &Config{
		Environment: Production,
		Log:         Log{Level: "info"},
		NATS: NATS{
			URLs:            []string{"nats://127.0.0.1:4222"},
			Replicas:        1,
			DuplicateWindow: 2 * time.Minute,
			MaxAge: MaxAge{
				Log: 90 * day, Emergency: 90 * day,
				Out: 7 * day, Pages: 7 * day,
				Dead: 90 * day, Audit: 0,
			},
		},
		Redis: Redis{Addr: "127.0.0.1:6379", Lease: 2 * time.Second},
		PubNub: PubNub{
			Origin: "ps.pndsn.com", Secure: true, UserID: "consultd",
			Channels: []string{"waiting-room.*", "consultation.*", "emergency.*"},
		},
		Audit:      Audit{CheckpointEvery: time.Minute, CheckpointEntries: 1000},
		Partitions: Partitions{Normal: 64, Emergency: 16},
		Timing: Timing{
			CheckInOpens: 20 * time.Minute,
			NoShow:       15 * time.Minute,
			Readiness:    5 * time.Minute,
			LongWait:     []time.Duration{15 * time.Minute, 30 * time.Minute, 45 * time.Minute},
			WaitLimit:    2 * time.Hour,
			ConnectSoft:  30 * time.Second,
			ConnectHard:  2 * time.Minute,
			ProviderDrop: 90 * time.Second,
			PatientDrop:  5 * time.Minute,
			BothAbsent:   5 * time.Minute,
			WrapUpSoft:   10 * time.Minute,
			WrapUpHard:   time.Hour,
			MaxFuture:    2 * time.Minute,
			MaxPast:      time.Hour,
			KeepClosed:   day,
		},
		Escalation: Escalation{
			Source:     OnCallSource{Timeout: 2 * time.Second, Cache: 12 * time.Hour},
			Transports: []string{"app"},
			RePage: map[states.Severity]time.Duration{
				states.SeverityUrgent:          3 * time.Minute,
				states.SeverityCritical:        time.Minute,
				states.SeverityLifeThreatening: 30 * time.Second,
			},
			FailsafeAfter: 2,
		},
		Push:     Push{APNSEnvironment: "production"},
		Ops:      Ops{Addr: "127.0.0.1:8080"},
		Shutdown: Shutdown{Drain: 20 * time.Second},
	}
}

// Warnings are the things that Load allowed although they are unwise.
func (c *Config) Warnings() []Problem { return c.warnings }

// Rules is what decisions depend on. The maps and lists are copies.
func (c *Config) Rules() *states.Rules {
	onCall := make(map[string][]string, len(c.Escalation.OnCall))
	for department, people := range c.Escalation.OnCall {
		onCall[department] = slices.Clone(people)
	}
	t := c.Timing
	return &states.Rules{
		Organization: c.Organization,
		Timing: states.Timing{
			CheckInOpens: t.CheckInOpens,
			NoShow:       t.NoShow,
			Readiness:    t.Readiness,
			LongWait:     slices.Clone(t.LongWait),
			WaitLimit:    t.WaitLimit,
			ConnectSoft:  t.ConnectSoft,
			ConnectHard:  t.ConnectHard,
			ProviderDrop: t.ProviderDrop,
			PatientDrop:  t.PatientDrop,
			BothAbsent:   t.BothAbsent,
			WrapUpSoft:   t.WrapUpSoft,
			WrapUpHard:   t.WrapUpHard,
			MaxFuture:    t.MaxFuture,
			MaxPast:      t.MaxPast,
			KeepClosed:   t.KeepClosed,
		},
		Directory: states.Directory{Staff: maps.Clone(c.Directory.Staff)},
		Paging: states.Paging{
			OnCall:            onCall,
			Ask:               c.Escalation.Source.URL != "",
			Failsafe:          slices.Clone(c.Escalation.Failsafe),
			Transports:        slices.Clone(c.Escalation.Transports),
			RePage:            maps.Clone(c.Escalation.RePage),
			FailsafeAfter:     c.Escalation.FailsafeAfter,
			DefaultDepartment: c.Escalation.DefaultDepartment,
		},
	}
}
