package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"consultd/states"
)

// The grammar of ids, of gateway names and of what PubNub can subscribe to.
const (
	idPattern        = `^[A-Za-z0-9_-]{1,32}$`
	transportPattern = `^[a-z0-9-]{1,32}$`
	channelPattern   = `^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+){0,3}$|^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)?\.\*$`
)

const (
	idHint     = "use 1 to 32 letters, digits, _ or -"
	secretHint = "set it as file:/path or env:NAME; consultd keys generate makes one" // #nosec G101 -- says where to put it
	sixYears   = 6 * 365 * 24 * time.Hour
)

// check finds what the types cannot say.
func (l *loader) check(c *Config) {
	l.checkGeneral(c)
	l.checkDurations(c)
	l.checkNATS(c)
	l.checkRedis(c)
	l.checkPubNub(c)
	l.checkKeys(c)
	l.checkTiming(c.Timing)
	l.checkEscalation(c)
	l.checkOps(c.Ops)
}

// strict reports an error in production and a warning in development.
func (l *loader) strict(c *Config, path, message, hint string) {
	l.add(c.Environment == Development, path, message, hint)
}

func (l *loader) id(path, id string) {
	if !regexp.MustCompile(idPattern).MatchString(id) {
		l.fail(path, fmt.Sprintf("%q is no id", id), idHint)
	}
}

func (l *loader) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		l.fail(path, fmt.Sprintf("%q is not known here", value), "use "+strings.Join(allowed, ", "))
	}
}

func (l *loader) upTo(path string, value, most int) {
	if value < 1 || value > most {
		l.fail(path, fmt.Sprintf("%d is out of range", value), fmt.Sprintf("use 1 to %d", most))
	}
}

// readable says whether a file that is named can be opened; none named is fine.
func (l *loader) readable(path, name string) bool {
	if name == "" {
		return true
	}
	file, err := os.Open(name) // #nosec G304 -- the operator names the file
	if err != nil {
		l.fail(path, "the file cannot be read: "+pathless(err), "mount "+name+" for the daemon's user")
		return false
	}
	_ = file.Close()
	return true
}

func (l *loader) checkGeneral(c *Config) {
	if c.Organization == "" {
		l.fail("organization", "is missing", idHint)
	} else {
		l.id("organization", c.Organization)
	}
	l.oneOf("environment", string(c.Environment), string(Development), string(Production))
	l.oneOf("log.level", c.Log.Level, "trace", "debug", "info", "warn", "error")
	l.upTo("partitions.normal", c.Partitions.Normal, 1024)
	l.upTo("partitions.emergency", c.Partitions.Emergency, 256)
	l.oneOf("push.apns_environment", c.Push.APNSEnvironment, "development", "production")
	for _, user := range slices.Sorted(maps.Keys(c.Directory.Staff)) {
		path := join("directory.staff", user)
		l.id(path, user)
		l.oneOf(path, string(c.Directory.Staff[user]),
			string(states.RoleNurse), string(states.RoleFrontDesk), string(states.RoleOnCall),
			string(states.RoleProvider), string(states.RoleBackend), string(states.RoleOperator))
	}
	if c.Shutdown.Drain == 0 {
		l.fail("shutdown.drain", "leaves no time to finish what is in hand", "use some seconds, such as 20s")
	}
	if c.Environment == Production {
		for _, path := range l.inClear {
			l.warn(path, "a secret is written out in the file", "move it: file:/path or env:NAME")
		}
	}
}

// checkDurations holds for every duration: not negative, and whole milliseconds, because that is what timers are stored in.
func (l *loader) checkDurations(c *Config) {
	one := func(path string, d time.Duration) {
		switch {
		case d < 0:
			l.fail(path, d.String()+" is negative", "use 0 or more")
		case d%time.Millisecond != 0:
			l.fail(path, d.String()+" is finer than a millisecond", "round it to milliseconds")
		}
	}
	for _, f := range fields(reflect.ValueOf(c).Elem(), "") {
		switch v := f.value.Interface().(type) {
		case time.Duration:
			one(f.path, v)
		case []time.Duration:
			for i, d := range v {
				one(fmt.Sprintf("%s[%d]", f.path, i), d)
			}
		case map[states.Severity]time.Duration:
			for _, severity := range slices.Sorted(maps.Keys(v)) {
				one(join(f.path, string(severity)), v[severity])
			}
		}
	}
}

func (l *loader) checkTLS(path string, t TLS) {
	if (t.CertFile == "") != (t.KeyFile == "") {
		l.fail(path, "cert_file and key_file need each other", "set both or neither")
	}
	if !t.Enabled && (t.CAFile != "" || t.CertFile != "" || t.ServerName != "") {
		l.warn(path, "has settings but is not enabled", "set "+path+".enabled: true")
	}
	for _, file := range []struct{ field, name string }{{"ca_file", t.CAFile}, {"cert_file", t.CertFile}, {"key_file", t.KeyFile}} {
		if !l.readable(path+"."+file.field, file.name) {
			return
		}
	}
	if _, err := t.Client(); err != nil && (t.CertFile == "") == (t.KeyFile == "") {
		l.fail(path, err.Error(), "the files must be in PEM, and the key must belong to the certificate")
	}
}

func (l *loader) checkNATS(c *Config) {
	n := c.NATS
	if len(n.URLs) == 0 {
		l.fail("nats.urls", "is empty", "name at least one server, such as tls://nats.internal:4222")
	}
	for i, server := range n.URLs {
		path := fmt.Sprintf("nats.urls[%d]", i)
		u, err := url.Parse(server)
		switch {
		case err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme):
			l.fail(path, "is no NATS address", "write it as tls://host:4222")
		case u.User != nil:
			l.fail(path, "holds a user or a password", "move them to nats.user and nats.password")
		case !n.TLS.Enabled && u.Scheme != "tls" && u.Scheme != "wss" && c.Environment == Production:
			l.fail(path, "plaintext is refused in production", "use tls://, or set nats.tls.enabled: true")
		}
	}
	ways := 0
	for _, used := range []bool{n.CredentialsFile != "", !n.Token.Empty(), n.User != "", !n.NKeySeed.Empty()} {
		if used {
			ways++
		}
	}
	if ways > 1 {
		l.fail("nats", "has more than one way to sign in", "keep one of credentials_file, user, token and nkey_seed")
	}
	if (n.User == "") != n.Password.Empty() {
		l.fail("nats.password", "user and password need each other", "set both or neither")
	}
	l.readable("nats.credentials_file", n.CredentialsFile)
	l.checkTLS("nats.tls", n.TLS)
	if n.Replicas != 1 && n.Replicas != 3 && n.Replicas != 5 {
		l.fail("nats.replicas", fmt.Sprintf("%d copies cannot hold a majority well", n.Replicas), "use 1, 3 or 5")
	} else if n.Replicas == 1 && c.Environment == Production {
		l.warn("nats.replicas", "one copy: a lost NATS server loses what it had accepted", "use 3 on a cluster")
	}
	if n.DuplicateWindow < time.Second {
		l.fail("nats.duplicate_window", "is shorter than 1s", "use at least 1s; 2m is usual")
	}
	for path, age := range map[string]time.Duration{
		"nats.max_age.log": n.MaxAge.Log, "nats.max_age.emergency": n.MaxAge.Emergency, "nats.max_age.out": n.MaxAge.Out,
		"nats.max_age.pages": n.MaxAge.Pages, "nats.max_age.dead": n.MaxAge.Dead, "nats.max_age.audit": n.MaxAge.Audit,
	} {
		if age > 0 && age < n.DuplicateWindow {
			l.fail(path, "is shorter than nats.duplicate_window", "keep entries longer, or shorten the window")
		}
	}
	for path, age := range map[string]time.Duration{"nats.max_age.log": n.MaxAge.Log, "nats.max_age.emergency": n.MaxAge.Emergency} {
		if age > 0 && age < c.Timing.KeepClosed {
			l.fail(path, "is shorter than timing.keep_closed", "keep the log longer than Redis remembers a visit")
		} else if age > 0 && age < 7*24*time.Hour && c.Environment == Production {
			l.warn(path, "is short: Redis can only be rebuilt from a backup younger than this", "30 days or more are usual")
		}
	}
	if n.MaxAge.Audit > 0 && n.MaxAge.Audit < sixYears && c.Environment == Production {
		l.warn("nats.max_age.audit", "is shorter than the six years that HIPAA asks for", "use 0, or export the entries elsewhere in time")
	}
}

func (l *loader) checkRedis(c *Config) {
	r := c.Redis
	socket := strings.HasPrefix(r.Addr, "/")
	if !socket {
		if _, port, err := net.SplitHostPort(r.Addr); err != nil || port == "" {
			l.fail("redis.addr", "is no address", "write it as host:6379 or as the path of a Unix socket")
		}
	}
	if !socket && !r.TLS.Enabled && c.Environment == Production {
		l.fail("redis.tls.enabled", "plaintext is refused in production", "set it to true, or use a Unix socket")
	}
	l.checkTLS("redis.tls", r.TLS)
	if r.Password.Empty() {
		if r.Username != "" {
			l.fail("redis.password", "is missing for redis.username", secretHintOf("the password"))
		} else if c.Environment == Production && !socket {
			l.warn("redis.password", "is missing", secretHintOf("the password"))
		}
	}
	if r.DB < 0 {
		l.fail("redis.db", "is negative", "use 0 or more")
	}
	if r.Lease < time.Second {
		l.fail("redis.lease", "is shorter than 1s", "use at least 1s, or a short pause would cost a takeover")
	} else if r.Lease > 5*time.Second {
		l.warn("redis.lease", "delays pages after a crash by about twice this", "2s keeps the worst delay below 5s")
	}
}

func secretHintOf(what string) string { return "set " + what + " as file:/path or env:NAME" }

func (l *loader) checkPubNub(c *Config) {
	p := c.PubNub
	if !p.Enabled {
		if c.Environment == Production {
			l.warn("pubnub.enabled", "the apps are not reached: only NATS is served", "set it to true")
		}
		return
	}
	for path, value := range map[string]string{
		"pubnub.publish_key": p.PublishKey, "pubnub.subscribe_key": p.SubscribeKey, "pubnub.origin": p.Origin,
	} {
		if value == "" {
			l.fail(path, "is missing", "copy it from the key set's page in PubNub's console")
		}
	}
	if strings.Contains(p.Origin, "/") {
		l.fail("pubnub.origin", "is more than a host", "leave out https:// and the path")
	}
	l.id("pubnub.user_id", p.UserID)
	if !p.Secure && c.Environment == Production {
		l.fail("pubnub.secure", "plaintext is refused in production", "set it to true")
	}
	if len(p.CipherKeys) == 0 {
		l.strict(c, "pubnub.cipher_keys", "is empty: messages would travel in clear", secretHint)
	}
	for i, key := range p.CipherKeys {
		path := fmt.Sprintf("pubnub.cipher_keys[%d]", i)
		if key.Empty() {
			l.fail(path, "is empty", secretHint)
		} else if slices.ContainsFunc(p.CipherKeys[:i], func(k Secret) bool { return k.Reveal() == key.Reveal() }) {
			l.warn(path, "is the same as an earlier one", "remove one of them")
		}
	}
	if p.Token.Empty() && c.Environment == Production {
		l.warn("pubnub.token", "is missing: the key set must have Access Manager off", "switch it on, grant a token and set it here")
	}
	if len(p.Channels) == 0 {
		l.fail("pubnub.channels", "is empty: nothing would be heard", "use [waiting-room.*, consultation.*, emergency.*]")
	}
	channel := regexp.MustCompile(channelPattern)
	for path, list := range map[string][]string{"pubnub.channels": p.Channels, "pubnub.clear_channels": p.ClearChannels} {
		for i, name := range list {
			if !channel.MatchString(name) {
				l.fail(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%q is no channel", name),
					"use a name such as waiting-room.dr-a, or a prefix with .* and at most two dots")
			}
		}
	}
	if len(p.ClearChannels) > 0 {
		l.strict(c, "pubnub.clear_channels", "unencrypted messages are accepted", "encrypt in the apps and remove the list")
	}
}

func (l *loader) checkKeys(c *Config) {
	var keyset struct {
		Primary uint32            `json:"primaryKeyId"`
		Keys    []json.RawMessage `json:"key"`
	}
	if c.Sealing.Keyset.Empty() {
		l.fail("sealing.keyset", "is missing: without it nothing about a patient may be kept", secretHint)
	} else if err := json.Unmarshal([]byte(c.Sealing.Keyset.Reveal()), &keyset); err != nil || keyset.Primary == 0 || len(keyset.Keys) == 0 {
		l.fail("sealing.keyset", "is no Tink keyset in JSON", "consultd keys generate makes one")
	}
	if c.Audit.SigningKey.Empty() {
		l.strict(c, "audit.signing_key", "is missing: the audit trail's checkpoints are not signed", secretHint)
	} else if _, err := c.Audit.Key(); err != nil {
		l.fail("audit.signing_key", "is not a seed of 32 bytes in base64", "consultd keys generate makes one")
	}
	for i, key := range c.Audit.PreviousKeys {
		if _, err := (Audit{PreviousKeys: []string{key}}).PublicKeys(); err != nil {
			l.fail(fmt.Sprintf("audit.previous_keys[%d]", i), "is not a public key of 32 bytes in base64", "copy the public key that consultd keys generate printed")
		}
	}
	if c.Audit.CheckpointEvery < time.Second {
		l.fail("audit.checkpoint_every", "is shorter than 1s", "1m is usual")
	}
	l.upTo("audit.checkpoint_entries", c.Audit.CheckpointEntries, 1_000_000)
}

func (l *loader) checkTiming(t Timing) {
	ordered := func(soft, hard string, a, b time.Duration) {
		if a > 0 && b > 0 && a >= b {
			l.fail("timing."+soft, fmt.Sprintf("%s is not shorter than timing.%s (%s)", a, hard, b), "swap them, or set one to 0")
		}
	}
	ordered("connect_soft", "connect_hard", t.ConnectSoft, t.ConnectHard)
	ordered("wrap_up_soft", "wrap_up_hard", t.WrapUpSoft, t.WrapUpHard)
	for i, wait := range t.LongWait {
		path := fmt.Sprintf("timing.long_wait[%d]", i)
		if wait <= 0 || i > 0 && wait <= t.LongWait[i-1] {
			l.fail(path, wait.String()+" is not longer than the one before", "write the list in ascending order")
		}
		if t.WaitLimit > 0 && wait >= t.WaitLimit {
			l.fail(path, "comes after timing.wait_limit ("+t.WaitLimit.String()+")", "shorten it, or lengthen the limit")
		}
	}
	if t.ConnectHard == 0 {
		l.warn("timing.connect_hard", "is off: a visit may hang in connecting for ever", "2m is usual")
	}
	if t.WrapUpHard == 0 {
		l.warn("timing.wrap_up_hard", "is off: a visit without notes never completes", "1h is usual")
	}
	if t.MaxFuture == 0 {
		l.fail("timing.max_future", "would refuse every message from a clock that is ahead", "use at least some seconds; 2m is usual")
	}
	if t.MaxPast == 0 {
		l.fail("timing.max_past", "would refuse every message", "1h is usual")
	}
	if t.KeepClosed == 0 {
		l.fail("timing.keep_closed", "would forget a visit at its end, and decide a late repeat again", "24h is usual")
	} else if t.KeepClosed < t.MaxPast {
		l.warn("timing.keep_closed", "is shorter than timing.max_past: a late repeat may find its visit forgotten", "lengthen it")
	}
}

func (l *loader) checkEscalation(c *Config) {
	e := c.Escalation
	people := func(path string, users []string) {
		for i, user := range users {
			l.id(fmt.Sprintf("%s[%d]", path, i), user)
		}
	}
	people("escalation.failsafe", e.Failsafe)
	if len(e.Failsafe) == 0 {
		l.strict(c, "escalation.failsafe", "is empty: an emergency that nobody answers ends unheard", "name a desk that is always staffed")
	}
	for _, department := range slices.Sorted(maps.Keys(e.OnCall)) {
		path := join("escalation.on_call", department)
		l.id(path, department)
		people(path, e.OnCall[department])
		if len(e.OnCall[department]) == 0 && len(e.Failsafe) == 0 && e.Source.URL == "" {
			l.fail(path, "nobody would be paged", "name somebody here or in escalation.failsafe")
		}
	}
	if len(e.OnCall) > 0 && e.Source.URL != "" {
		l.warn("escalation.on_call", "is not used while escalation.source.url is set", "remove one of them")
	}
	if e.DefaultDepartment == "" {
		if c.Environment == Production {
			l.warn("escalation.default_department", "is missing: an emergency in a visit that is not known would page nobody", "name the department that takes such calls")
		}
	} else {
		l.id("escalation.default_department", e.DefaultDepartment)
		if _, known := e.OnCall[e.DefaultDepartment]; !known && e.Source.URL == "" {
			l.warn("escalation.default_department", "has nobody in escalation.on_call", "name its people, or rely on the failsafe")
		}
	}
	l.checkSource(c)
	if len(e.Transports) == 0 {
		l.fail("escalation.transports", "is empty: no page would be sent", "name the gateways, such as [app, sms]")
	}
	for i, transport := range e.Transports {
		if !regexp.MustCompile(transportPattern).MatchString(transport) {
			l.fail(fmt.Sprintf("escalation.transports[%d]", i), fmt.Sprintf("%q is no name of a gateway", transport), "use small letters, digits and -")
		}
	}
	severities := []states.Severity{states.SeverityUrgent, states.SeverityCritical, states.SeverityLifeThreatening}
	for _, severity := range slices.Sorted(maps.Keys(e.RePage)) {
		path := join("escalation.re_page", string(severity))
		if !slices.Contains(severities, severity) {
			l.fail(path, "no such severity", "use urgent, critical or life-threatening")
		} else if e.RePage[severity] == 0 {
			l.fail(path, "an unanswered page would never be repeated", "set a time")
		}
	}
	for i, severe := range severities[1:] {
		if milder := severities[i]; e.RePage[severe] > e.RePage[milder] {
			l.warn(join("escalation.re_page", string(severe)), fmt.Sprintf("is slower than %s", milder), "page sooner for what is worse")
		}
	}
	l.upTo("escalation.failsafe_after", e.FailsafeAfter, 100)
}

func (l *loader) checkSource(c *Config) {
	s := c.Escalation.Source
	if s.URL == "" {
		return
	}
	u, err := url.Parse(strings.ReplaceAll(s.URL, "{departmentId}", "department"))
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		l.fail("escalation.source.url", "is no web address", "write it as https://host/api/on-call/{departmentId}")
	case !strings.Contains(s.URL, "{departmentId}"):
		l.fail("escalation.source.url", "does not say for which department it asks", "put {departmentId} into it")
	case u.User != nil:
		l.fail("escalation.source.url", "holds a user or a password", "use escalation.source.token")
	case u.Scheme == "http":
		l.strict(c, "escalation.source.url", "asks in plaintext", "use https://")
	}
	if s.Timeout == 0 || s.Timeout > 10*time.Second {
		l.fail("escalation.source.timeout", s.Timeout.String()+" is no time to wait for in an emergency", "use 500ms to 10s; 2s is usual")
	}
	if s.Cache == 0 {
		l.warn("escalation.source.cache", "is off: with the source away only the failsafe is paged", "12h is usual")
	}
}

func (l *loader) checkOps(o Ops) {
	host, port, err := net.SplitHostPort(o.Addr)
	if err != nil || port == "" {
		l.fail("ops.addr", "is no address", "write it as 127.0.0.1:8080, or :8080 for every interface")
		return
	}
	if o.Pprof && !loopback(host) {
		l.fail("ops.pprof", "shows memory, and ops.addr is not loopback", "set ops.addr to 127.0.0.1:8080, or pprof to false")
	}
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
