package config_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/rs/zerolog"

	"consultd/config"
	"consultd/states"
)

// least is a file that development accepts without a word.
const least = `organization: clinic
environment: development
escalation: {failsafe: [desk]}
sealing: {keyset: '{"primaryKeyId":1,"key":[{}]}'}
audit: {signing_key: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}
`

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "consultd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, text string) *config.Config {
	t.Helper()
	c, err := config.Load(write(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func lines(problems []config.Problem) []string {
	var list []string
	for _, p := range problems {
		list = append(list, p.String())
	}
	return list
}

func TestLeastFile(t *testing.T) {
	if problems := config.Check([]byte(least)); len(problems) != 0 {
		t.Errorf("problems: %q", lines(problems))
	}
	c := load(t, least)
	if c.Organization != "clinic" || c.Timing.ConnectHard != 2*time.Minute || c.Redis.Lease != 2*time.Second {
		t.Errorf("not the file over the defaults: %+v", c)
	}
	if got := c.Escalation.Failsafe; !slices.Equal(got, []string{"desk"}) {
		t.Errorf("failsafe %q", got)
	}
}

// TestEveryProblemAtOnce is the promise of check-config: one wrong value hides no other, and each is found again in the file.
func TestEveryProblemAtOnce(t *testing.T) {
	const text = `organization: "a clinic"
environment: development
log: {level: loud}
nats:
  urls: nats://127.0.0.1:4222
  replicas: 2
  duplicate_window: 30
redis:
  adr: 127.0.0.1:6379
  lease: 900ms
  db: "0"
timing:
  connect_soft: 2m
  connect_hard: 1m
  wrap_up_soft: 1h
  long_wait: [15m, 10m]
  no_show: soon
  no_show: 15m
  max_past: 1500us
escalation:
  on_call:
    cardiology: []
  re_page:
    dire: 3s
push: yes
`
	want := []string{
		`1:1: organization: "a clinic" is no id`,
		`3:7: log.level: "loud" is not known here`,
		`5:3: nats.urls: a text where a list is expected`,
		`6:3: nats.replicas: 2 copies cannot hold`,
		`7:3: nats.duplicate_window: a bare number where a duration such as 30s or 500ms is expected`,
		`9:3: redis.adr: no such field; did you mean addr?`,
		`10:3: redis.lease: is shorter than 1s`,
		`11:3: redis.db: a text where a whole number is expected`,
		`13:3: timing.connect_soft: 2m0s is not shorter than timing.connect_hard (1m0s)`,
		`15:3: timing.wrap_up_soft: 1h0m0s is not shorter than timing.wrap_up_hard (1h0m0s)`,
		`16:20: timing.long_wait[1]: 10m0s is not longer`,
		`17:3: timing.no_show: "soon" is not a duration`,
		`18:3: timing.no_show: stands here for the second time, first on line 17`,
		`19:3: timing.max_past: 1.5ms is finer than a millisecond`,
		`20:1: warning: escalation.failsafe: is empty`,
		`22:5: escalation.on_call.cardiology: nobody would be paged`,
		`24:5: escalation.re_page.dire: no such severity`,
		`25:1: push: a text where a section is expected`,
		`warning: audit.signing_key: is missing`,
		`sealing.keyset: is missing`,
	}
	got := config.Check([]byte(text))
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("not reported: %s", want[i])
		case i >= len(want):
			t.Errorf("reported as well: %s", got[i])
		case !strings.HasPrefix(got[i].String(), want[i]):
			t.Errorf("got  %s\nwant %s", got[i], want[i])
		case got[i].Hint == "" && !strings.Contains(got[i].Message, "expected"):
			t.Errorf("says not what to do: %s", got[i])
		}
	}
	if !config.Refused(got) {
		t.Error("not refused")
	}
	_, err := config.Load(write(t, text))
	if refused, ok := errors.AsType[*config.Error](err); !ok || len(refused.Problems) != len(got) {
		t.Errorf("Load says %v", err)
	}
}

// TestUnreadableValueIsReportedOnce: a secret whose file is missing is not missing from the configuration as well.
func TestUnreadableValueIsReportedOnce(t *testing.T) {
	text := strings.Replace(least, `'{"primaryKeyId":1,"key":[{}]}'`, "file:/none", 1)
	if got := lines(config.Check([]byte(text))); len(got) != 1 || !strings.HasPrefix(got[0], "4:11: sealing.keyset: the file of this secret cannot be read") {
		t.Errorf("problems: %q", got)
	}
}

func TestColumnPointsAtTheKey(t *testing.T) {
	problems := config.Check([]byte(least + "redis:\n    leese: 3s\n"))
	if len(problems) != 1 || problems[0].Line != 7 || problems[0].Column != 5 {
		t.Errorf("problems: %+v", problems)
	}
}

func TestUnreadableYAML(t *testing.T) {
	for name, text := range map[string]string{
		"indentation":  "nats:\n  urls: [a]\n user: x\n",
		"open bracket": "organization: clinic\nnats: {urls: [\n",
		"two docs":     "organization: clinic\n---\norganization: other\n",
		"list":         "- organization\n",
		"scalar":       "clinic\n",
		"loop":         "nats: &a\n  urls: *a\n",
	} {
		problems := config.Check([]byte(text))
		if !config.Refused(problems) || problems[0].Line == 0 {
			t.Errorf("%s: %q", name, lines(problems))
		}
	}
	for _, text := range []string{"", "# nothing\n", "---\n"} {
		if got := lines(config.Check([]byte(text))); len(got) == 0 || !strings.Contains(strings.Join(got, "\n"), "organization: is missing") {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestProductionRefuses(t *testing.T) {
	const text = `organization: clinic
environment: production
nats: {urls: ["nats://nats.internal:4222"]}
redis: {addr: "redis.internal:6379"}
pubnub: {enabled: true, secure: false, publish_key: p, subscribe_key: s, clear_channels: [consultation.*]}
escalation: {source: {url: "http://rota.internal/{departmentId}"}}
`
	for _, want := range []string{
		"nats.urls[0]: plaintext", "redis.tls.enabled: plaintext", "pubnub.secure: plaintext", "pubnub.cipher_keys: is empty",
		"pubnub.clear_channels: ", "sealing.keyset: is missing", "audit.signing_key: is missing", "escalation.failsafe: is empty",
		"escalation.source.url: asks in plaintext",
	} {
		for environment, severe := range map[string]bool{"production": true, "development": false} {
			if !severe && strings.Contains(want, ": plaintext") {
				continue // a local broker is what development is for
			}
			if !severe && strings.HasPrefix(want, "sealing") {
				severe = true // patients' data is sealed everywhere
			}
			problems := config.Check([]byte(strings.Replace(text, "production", environment, 1)))
			i := slices.IndexFunc(problems, func(p config.Problem) bool { return strings.Contains(p.String(), want) })
			if i < 0 {
				t.Errorf("%s does not mention %q", environment, want)
			} else if problems[i].Warning == severe {
				t.Errorf("%s: %s", environment, problems[i])
			}
		}
	}
	// What nobody names is production.
	if got := load(t, least).Environment; got != config.Development {
		t.Errorf("environment %q", got)
	}
	if config.Default().Environment != config.Production {
		t.Error("the default is not the strict one")
	}
}

func TestCrossChecks(t *testing.T) {
	for text, want := range map[string]string{
		"ops: {addr: '0.0.0.0:8080', pprof: true}":                                "ops.pprof: shows memory",
		"ops: {addr: 8080x}":                                                      "ops.addr: is no address",
		"nats: {user: a}":                                                         "nats.password: user and password need each other",
		"nats: {token: a, credentials_file: /none}":                               "nats: has more than one way to sign in",
		"nats: {credentials_file: /none/creds}":                                   "nats.credentials_file: the file cannot be read",
		"nats: {urls: ['nats://user:word@host']}":                                 "nats.urls[0]: holds a user or a password",
		"nats: {urls: ['http://host']}":                                           "nats.urls[0]: is no NATS address",
		"nats: {max_age: {log: 1h}}":                                              "nats.max_age.log: is shorter than timing.keep_closed",
		"nats: {max_age: {dead: 1s}}":                                             "nats.max_age.dead: is shorter than nats.duplicate_window",
		"nats: {tls: {cert_file: /none}}":                                         "nats.tls: cert_file and key_file need each other",
		"redis: {addr: ''}":                                                       "redis.addr: is no address",
		"redis: {username: a}":                                                    "redis.password: is missing",
		"redis: {lease: 20s}":                                                     "redis.lease: delays pages",
		"pubnub: {enabled: true}":                                                 "pubnub.subscribe_key: is missing",
		"pubnub: {enabled: true, channels: ['*']}":                                "pubnub.channels[0]: \"*\" is no channel",
		"pubnub: {enabled: true, channels: []}":                                   "pubnub.channels: is empty",
		"pubnub: {enabled: true, cipher_keys: [a, a]}":                            "pubnub.cipher_keys[1]: is the same",
		"pubnub: {enabled: true, cipher_keys: ['']}":                              "pubnub.cipher_keys[0]: is empty",
		"pubnub: {enabled: true, user_id: 'a b'}":                                 "pubnub.user_id: \"a b\" is no id",
		"partitions: {normal: 0}":                                                 "partitions.normal: 0 is out of range",
		"timing: {wait_limit: 40m}":                                               "timing.long_wait[2]: comes after",
		"timing: {keep_closed: 0}":                                                "timing.keep_closed: would forget",
		"timing: {max_future: 0}":                                                 "timing.max_future: would refuse",
		"timing: {no_show: -1s}":                                                  "timing.no_show: -1s is negative",
		"timing: {connect_hard: 0}":                                               "warning: timing.connect_hard: is off",
		"directory: {staff: {n-1: doctor}}":                                       "directory.staff.n-1: \"doctor\" is not known",
		"directory: {staff: {'n 1': nurse}}":                                      "\"n 1\" is no id",
		"shutdown: {drain: 0}":                                                    "shutdown.drain: leaves no time",
		"push: {apns_environment: sandbox}":                                       "push.apns_environment: \"sandbox\" is not known",
		"log: {level: 3}":                                                         "log.level: a bare number",
		"log: {console: 'yes'}":                                                   "log.console: a text where true or false",
		"timing: {long_wait: [15m, [1m]]}":                                        "timing.long_wait[1]: a list where a duration",
		"partitions: {normal: 1.5}":                                               "partitions.normal: a bare number where a whole number",
		"timing: {<<: {no_show: 1m}}":                                             "timing.<<: no such field",
		"nats: {password: 12345}":                                                 "nats.password: a bare number where a secret",
		"nats: {password: file:/none/x}":                                          "nats.password: the file of this secret cannot be read",
		"nats: {password: env:NO_SUCH_VARIABLE}":                                  "nats.password: the environment has no variable",
		"extra: {escalation: 1}":                                                  "extra: no such field",
		"partitions: {emergency: 10000}":                                          "partitions.emergency: 10000 is out of range",
		"timing: {wrap_up_hard: 0}":                                               "warning: timing.wrap_up_hard: is off",
		"pubnub: {enabled: true, origin: 'https://a'}":                            "pubnub.origin: is more than a host",
		"nats: {tls: {ca_file: /none/ca.pem}}":                                    "nats.tls.ca_file: the file cannot be read",
		"audit2: {}":                                                              "did you mean audit?",
		"timing: {max_past: 48h, keep_closed: 24h}":                               "warning: timing.keep_closed: is shorter than timing.max_past",
		"redis: {db: -1}":                                                         "redis.db: is negative",
		"timing: {readiness: 1500us}":                                             "timing.readiness: 1.5ms is finer",
		"pubnub: {enabled: true, clear_channels: [a.*.b]}":                        "pubnub.clear_channels[0]: \"a.*.b\" is no channel",
		"log: {level: debug, level: info}":                                        "log.level: stands here for the second time",
		"nats: {duplicate_window: 500ms}":                                         "nats.duplicate_window: is shorter than 1s",
		"ops: {addr: 'clinic.internal:80', pprof: true}":                          "ops.pprof: shows memory",
		"nats: {tls: {server_name: a}}":                                           "warning: nats.tls: has settings but is not enabled",
		"redis: {tls: {enabled: true, cert_file: a}}":                             "redis.tls: cert_file and key_file need each other",
		"pubnub: {enabled: true, publish_key: p, channels: [waiting-room.a.b.*]}": "is no channel",
	} {
		problems := lines(config.Check([]byte(least + text + "\n")))
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, want) }) {
			t.Errorf("%s\n  got  %q\n  want %q", text, problems, want)
		}
	}
	if got := lines(config.Check([]byte(strings.Replace(least, "primaryKeyId", "primary", 1)))); len(got) != 1 || !strings.Contains(got[0], "sealing.keyset: is no Tink keyset") {
		t.Errorf("problems: %q", got)
	}
	for text, want := range map[string]string{
		"{on_call: {cardiology: []}}":                                                   "escalation.on_call.cardiology: nobody would be paged",
		"{failsafe: ['a b']}":                                                           "escalation.failsafe[0]: \"a b\" is no id",
		"{failsafe: [d], transports: []}":                                               "escalation.transports: is empty",
		"{failsafe: [d], transports: [SMS]}":                                            "escalation.transports[0]: \"SMS\" is no name",
		"{failsafe: [d], re_page: {urgent: 0}}":                                         "escalation.re_page.urgent: an unanswered page",
		"{failsafe: [d], re_page: {critical: 1h}}":                                      "escalation.re_page.critical: is slower than urgent",
		"{failsafe: [d], failsafe_after: 0}":                                            "escalation.failsafe_after: 0 is out of range",
		"{failsafe: [d], source: {url: 'https://a/on-call'}}":                           "escalation.source.url: does not say for which department",
		"{failsafe: [d], source: {url: 'ftp://a/{departmentId}'}}":                      "escalation.source.url: is no web address",
		"{failsafe: [d], source: {url: 'https://u:p@a/{departmentId}'}}":                "escalation.source.url: holds a user",
		"{failsafe: [d], source: {url: 'https://a/{departmentId}', timeout: 1m}}":       "escalation.source.timeout: 1m0s is no time",
		"{failsafe: [d], source: {url: 'https://a/{departmentId}', cache: 0}}":          "escalation.source.cache: is off",
		"{failsafe: [d], on_call: {a: [b]}, source: {url: 'https://a/{departmentId}'}}": "escalation.on_call: is not used",
		"{failsafe: [d], default_department: surgery}":                                  "escalation.default_department: has nobody",
	} {
		whole := strings.Replace(least, "{failsafe: [desk]}", text, 1)
		problems := lines(config.Check([]byte(whole)))
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, want) }) {
			t.Errorf("%s\n  got  %q\n  want %q", text, problems, want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("CONSULTD_REDIS_ADDR", "cache:6379")
	t.Setenv("CONSULTD_NATS_URLS", "nats://a:4222, nats://b:4222")
	t.Setenv("CONSULTD_TIMING_CONNECT_SOFT", "250ms")
	t.Setenv("CONSULTD_TIMING_LONG_WAIT", "1s,2s")
	t.Setenv("CONSULTD_LOG_CONSOLE", "true")
	t.Setenv("CONSULTD_PARTITIONS_NORMAL", "8")
	t.Setenv("CONSULTD_NATS_TOKEN", "env:THE_TOKEN")
	t.Setenv("THE_TOKEN", "tokentext")
	t.Setenv("CONSULTD_ESCALATION_ON_CALL", "{cardiology: [dr-a, dr-b]}")
	t.Setenv("CONSULTD_ESCALATION_RE_PAGE", "urgent: 4m")
	t.Setenv("CONSULTD_ESCALATION_FAILSAFE", "[desk, switchboard]")
	c := load(t, least+"redis: {addr: 'other:1'}\n")
	for _, pair := range [][2]any{
		{c.Redis.Addr, "cache:6379"},
		{c.NATS.URLs, []string{"nats://a:4222", "nats://b:4222"}},
		{c.Timing.ConnectSoft, 250 * time.Millisecond},
		{c.Timing.LongWait, []time.Duration{time.Second, 2 * time.Second}},
		{c.Log.Console, true},
		{c.Partitions.Normal, 8},
		{c.NATS.Token.Reveal(), "tokentext"},
		{c.Escalation.OnCall, map[string][]string{"cardiology": {"dr-a", "dr-b"}}},
		{c.Escalation.RePage[states.SeverityUrgent], 4 * time.Minute},
		{c.Escalation.RePage[states.SeverityCritical], time.Minute},
		{c.Escalation.Failsafe, []string{"desk", "switchboard"}},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("got %v, want %v", pair[0], pair[1])
		}
	}
	if len(c.Warnings()) != 0 {
		t.Errorf("warnings: %q", lines(c.Warnings()))
	}
}

func TestEnvironmentProblemsNameTheVariable(t *testing.T) {
	t.Setenv("CONSULTD_REDIS_LEASE", "brief")
	t.Setenv("CONSULTD_PARTITIONS_NORMAL", "7x")
	t.Setenv("CONSULTD_OPS_PPROF", "1")
	t.Setenv("CONSULTD_ESCALATION_ON_CALL", "{cardiology: dr-a}")
	t.Setenv("CONSULTD_TIMING_CONNECT_HARD", "1s")
	t.Setenv("CONSULTD_REDIS_ADRR", "x")
	got := strings.Join(lines(config.Check([]byte(least+"timing: {connect_soft: 30s}\n"))), "\n")
	for _, want := range []string{
		`CONSULTD_REDIS_LEASE: redis.lease: "brief" is not a duration`,
		`CONSULTD_PARTITIONS_NORMAL: partitions.normal: "7x" is not a whole number`,
		`CONSULTD_OPS_PPROF: ops.pprof: "1" is neither true nor false`,
		`CONSULTD_ESCALATION_ON_CALL: escalation.on_call.cardiology: a text where a list`,
		`6:10: timing.connect_soft: 30s is not shorter than timing.connect_hard (1s)`,
		`CONSULTD_REDIS_ADRR: warning: sets nothing`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in\n%s", want, got)
		}
	}
}

const canary = "canary-4711"

func TestSecretsAreResolvedAndNeverPrinted(t *testing.T) {
	t.Setenv("THE_SEED", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, ed25519.SeedSize)))
	keyset := `{"primaryKeyId":1,"key":[{"keyData":"` + canary + `"}]}`
	file := write(t, keyset+"\n")
	c := load(t, strings.NewReplacer("'{\"primaryKeyId\":1,\"key\":[{}]}'", "file:"+file, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "env:THE_SEED").
		Replace(least)+"nats: {token: "+canary+"-in-clear}\npubnub: {cipher_keys: ['file:"+file+"', "+canary+"-old]}\n")
	if got := c.Sealing.Keyset.Reveal(); got != keyset {
		t.Errorf("from a file: %q", got)
	}
	if got := c.PubNub.CipherKeys; len(got) != 2 || got[0].Reveal() != keyset || got[1].Reveal() != canary+"-old" {
		t.Error("the list of keys did not arrive in order")
	}
	key, err := c.Audit.Key()
	if err != nil || !bytes.Equal(key.Seed(), bytes.Repeat([]byte{7}, ed25519.SeedSize)) {
		t.Errorf("signing key: %v", err)
	}
	var log bytes.Buffer
	logger := zerolog.New(&log)
	logger.Info().Interface("config", c).Stringer("token", c.NATS.Token).Any("nats", c.NATS).Msg("x")
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	asYAML, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"%v": fmt.Sprintf("%v", c), "%+v": fmt.Sprintf("%+v", c), "%#v": fmt.Sprintf("%#v", c.NATS), "%s": fmt.Sprintf("%s", c.NATS.Token),
		"%q": fmt.Sprintf("%q", c.NATS.Token), "%x": fmt.Sprintf("%x", c.NATS.Token), "%d": fmt.Sprintf("%d", c.PubNub.CipherKeys),
		"json": string(asJSON), "yaml": string(asYAML), "zerolog": log.String(),
	} {
		if strings.Contains(text, canary) || strings.Contains(text, fmt.Sprintf("%x", canary)) {
			t.Errorf("%s prints a secret: %s", name, text)
		}
		if !strings.Contains(text, "[redacted]") {
			t.Errorf("%s has nothing redacted, so it proves nothing: %s", name, text)
		}
	}
}

// TestProblemsHoldNoSecrets puts a canary in every secret, in forms that each fail in their own way.
func TestProblemsHoldNoSecrets(t *testing.T) {
	for _, text := range []string{
		"nats: {token: {" + canary + ": 1}}", "nats: {password: " + canary + "}", "audit2: " + canary, "audit: {signing_key: " + canary + "}",
		"pubnub: {enabled: true, cipher_keys: " + canary + "}", "pubnub: {enabled: true, cipher_keys: [" + canary + ", " + canary + "]}",
		"nats: {token: \"" + canary + "}", "nats:\n  token: " + canary + "\n bad\n", "nats: {urls: ['nats://u:" + canary + "@h']}",
		"escalation: {source: {url: 'https://u:" + canary + "@h/{departmentId}'}}", "nats: {token: " + canary + ": " + canary + "}",
	} {
		problems := config.Check([]byte("environment: production\n" + text + "\n"))
		if len(problems) == 0 {
			t.Errorf("%s: nothing found, so it proves nothing", text)
		}
		for _, p := range problems {
			if strings.Contains(p.Message+p.Hint, canary) {
				t.Errorf("%s: %s", text, p)
			}
		}
	}
	production := strings.Replace(least, "development", "production", 1)
	if got := strings.Join(lines(config.Check([]byte(production))), "\n"); !strings.Contains(got, "sealing.keyset: a secret is written out") {
		t.Errorf("a secret in the file is not mentioned:\n%s", got)
	}
}

func TestExampleIsAccepted(t *testing.T) {
	data, err := os.ReadFile("../docs/consultd.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"NATS_PASSWORD", "REDIS_PASSWORD", "PUBNUB_SECRET_KEY", "PUBNUB_TOKEN", "CIPHER_KEY", "CIPHER_KEY_OLD", "SEALING_KEYSET", "ROTA_TOKEN",
	} {
		t.Setenv(name, "value of "+name)
	}
	t.Setenv("SEALING_KEYSET", `{"primaryKeyId":1,"key":[{}]}`)
	t.Setenv("AUDIT_SIGNING_KEY", base64.StdEncoding.EncodeToString(make([]byte, ed25519.SeedSize)))
	if problems := config.Check(data); len(problems) != 0 {
		t.Errorf("problems: %q", lines(problems))
	}
}

func TestAnchorsAreFollowed(t *testing.T) {
	c := load(t, least+"directory: {staff: {a: &r nurse, b: *r}}\n")
	if c.Directory.Staff["b"] != states.RoleNurse {
		t.Errorf("staff: %v", c.Directory.Staff)
	}
}

// TestRulesCarryEveryDuration fails when states.Timing grows a duration that the configuration does not know.
func TestRulesCarryEveryDuration(t *testing.T) {
	c := config.Default()
	from, to := reflect.ValueOf(&c.Timing).Elem(), reflect.TypeFor[states.Timing]()
	for i := range from.NumField() {
		if from.Field(i).Kind() == reflect.Int64 {
			from.Field(i).SetInt(int64(i + 1))
		}
	}
	got := reflect.ValueOf(c.Rules().Timing)
	for i := range to.NumField() {
		name := to.Field(i).Name
		if want := from.FieldByName(name); !want.IsValid() || !reflect.DeepEqual(want.Interface(), got.Field(i).Interface()) {
			t.Errorf("timing %s: not carried over", name)
		}
	}
}

func TestRulesAreCopies(t *testing.T) {
	c := load(t, strings.Replace(least, "[desk]", "[desk], on_call: {cardiology: [dr-a]}", 1)+"directory: {staff: {n-1: nurse}}\n")
	r := c.Rules()
	if r.Organization != "clinic" || r.Paging.Ask || r.Directory.Staff["n-1"] != states.RoleNurse || r.Paging.OnCall["cardiology"][0] != "dr-a" {
		t.Errorf("rules: %+v", r)
	}
	r.Paging.OnCall["cardiology"][0] = "changed"
	r.Timing.LongWait[0] = 0
	r.Paging.Failsafe[0] = "changed"
	maps.DeleteFunc(r.Directory.Staff, func(string, states.Role) bool { return true })
	r.Paging.RePage[states.SeverityUrgent] = 0
	if !reflect.DeepEqual(c.Rules(), load(t, strings.Replace(least, "[desk]", "[desk], on_call: {cardiology: [dr-a]}", 1)+"directory: {staff: {n-1: nurse}}\n").Rules()) {
		t.Error("writing to the rules changed the configuration")
	}
	c.Escalation.Source.URL = "https://rota/{departmentId}"
	if !c.Rules().Paging.Ask {
		t.Error("a source is configured, but the rules do not ask it")
	}
}

func TestPublicKeys(t *testing.T) {
	seed := bytes.Repeat([]byte{7}, ed25519.SeedSize)
	own, ok := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	if !ok {
		t.Fatal("no public key")
	}
	a := config.Audit{SigningKey: config.NewSecret(base64.StdEncoding.EncodeToString(seed)), PreviousKeys: []string{base64.StdEncoding.EncodeToString(own)}}
	keys, err := a.PublicKeys()
	if err != nil || len(keys) != 2 || !keys[0].Equal(own) || !keys[1].Equal(own) {
		t.Errorf("%v %v", keys, err)
	}
	text := strings.Replace(least, "audit: {", "audit: {previous_keys: [short], ", 1)
	if got := lines(config.Check([]byte(text))); len(got) != 1 || !strings.Contains(got[0], "audit.previous_keys[0]: is not a public key") {
		t.Errorf("problems: %q", got)
	}
}

func TestTLSClient(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	authority := write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	for _, trusted := range []bool{true, false} {
		settings := config.TLS{Enabled: true, ServerName: "example.com"}
		if trusted {
			settings.CAFile = authority
		}
		client, err := settings.Client()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", server.Listener.Addr().String(), client)
		if (err == nil) != trusted {
			t.Errorf("trusted %t: %v", trusted, err)
		}
		if err == nil {
			_ = conn.Close()
		}
	}
	text := least + "redis: {tls: {enabled: true, ca_file: " + write(t, "no certificate") + "}}\n"
	if got := lines(config.Check([]byte(text))); len(got) != 1 || !strings.Contains(got[0], "no certificate in PEM form") {
		t.Errorf("problems: %q", got)
	}
}

func TestMissingFile(t *testing.T) {
	if _, err := config.Load(filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte(least))
	f.Add([]byte("nats: &a {urls: *a}\nlog: *b\n"))
	f.Add([]byte("a: |\n  x\n? b\n: c\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, p := range config.Check(data) {
			if p.Message == "" || p.Line < 0 {
				t.Errorf("empty problem: %+v", p)
			}
		}
	})
}
