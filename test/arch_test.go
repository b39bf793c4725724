// Package test holds what is true of the repository as a whole: which package may import which, who may read the clock, the
// environment and secrets, and what the binary links. It tests no behaviour.
package test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "consultd"

// levels is the import order: a package may import what stands on a lower level, and what it is granted here by name.
// Packages of test/ may import everything but commands, and only cmd/devstack and tests may import them.
var levels = map[string]int{
	"states":              0,
	"orchestrator/crash":  0, // crash points of the crash tests; empty in every other build
	"config":              1,
	"store":               1,
	"handlers":            1,
	"handlers/nats":       2,
	"handlers/pubnub":     2,
	"handlers/oncall":     2,
	"orchestrator":        2,
	"handlers/ops":        3,
	"orchestrator/daemon": 4,
	"cmd/consultd":        5,
	"cmd/devstack":        5,
}

// apart are pairs that the levels would allow and the design does not: the orchestrator names what it needs as interfaces,
// the brokers are handed values and functions, and the daemon alone puts them together.
var apart = map[string][]string{
	"orchestrator":    {"config", "store", "handlers", "handlers/nats", "handlers/pubnub", "handlers/oncall", "handlers/ops"},
	"handlers/nats":   {"config", "store", "orchestrator"},
	"handlers/pubnub": {"config", "store", "orchestrator"},
	"handlers/oncall": {"config", "store", "orchestrator"},
	"handlers/ops":    {"config", "store", "handlers", "handlers/nats", "handlers/pubnub"},
}

// clocks are the files at the edges that read a clock or wait for one, each with its reason.
var clocks = map[string]string{
	"handlers/nats/client.go":        "pauses between attempts",
	"handlers/nats/notary.go":        "when a checkpoint is due, and its date",
	"handlers/oncall/oncall.go":      "age of a cached answer",
	"handlers/pubnub/client.go":      "timestamps of signatures",
	"handlers/pubnub/health.go":      "age of the last poll",
	"handlers/pubnub/ingest.go":      "when history is read again",
	"handlers/pubnub/lease.go":       "how long the other ingester has been silent",
	"handlers/pubnub/pace.go":        "pauses between attempts",
	"handlers/pubnub/transport.go":   "liveness of the subscription",
	"orchestrator/backoff.go":        "pauses between attempts",
	"orchestrator/lane.go":           "how long a full queue may hold up the reader",
	"orchestrator/marks.go":          "how often marks are saved",
	"orchestrator/ownership.go":      "how often leases are renewed",
	"orchestrator/partition.go":      "durations in metrics, pauses",
	"orchestrator/relay.go":          "the deadline of a drain",
	"orchestrator/rules.go":          "age of the last rules entry",
	"orchestrator/sweeper.go":        "waiting for the next due timer",
	"orchestrator/daemon/daemon.go":  "pauses while connecting",
	"orchestrator/daemon/metrics.go": "age of the last poll, in metrics",
	"store/outbox.go":                "pauses between attempts",
}

// reveals are the files that take a secret or a patient's words out of their type, each with its reason.
var reveals = map[string]string{
	"config/config.go":              "the audit key is parsed",
	"config/secret.go":              "the type itself",
	"config/check.go":               "the form of the sealing keyset is checked",
	"store/record.go":               "a reason is sealed",
	"orchestrator/daemon/daemon.go": "clients get their credentials",
	"orchestrator/daemon/apps.go":   "the PubNub client gets its keys",
	"cmd/consultd/check.go":         "keys are tried out",
	"cmd/devstack/stack.go":         "the stand-in gets the keys that it made up",
}

// source is one parsed Go file.
type source struct {
	file, pkg string // slash paths from the root
	isTest    bool
	syntax    *ast.File
	names     map[string]string // local import name to import path
}

func (s source) imports() []string {
	return slices.Sorted(maps.Values(s.names))
}

// uses lists the selectors of an imported package that the file mentions.
func (s source) uses(importPath string) []string {
	var local string
	for name, p := range s.names {
		if p == importPath {
			local = name
		}
	}
	if local == "" {
		return nil
	}
	var found []string
	ast.Inspect(s.syntax, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := selector.X.(*ast.Ident); ok && x.Name == local {
				found = append(found, selector.Sel.Name)
			}
		}
		return true
	})
	return found
}

func parse(t *testing.T) []source {
	t.Helper()
	var list []source
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == "testdata" || len(d.Name()) > 1 && d.Name()[0] == '.') {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") {
			return nil
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", file), nil, parser.ParseComments)
		if err != nil {
			return err
		}
		s := source{file: file, pkg: path.Dir(file), isTest: strings.HasSuffix(file, "_test.go"), syntax: syntax, names: map[string]string{}}
		for _, spec := range syntax.Imports {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			name := path.Base(p)
			if spec.Name != nil {
				name = spec.Name.Name
			}
			if name == "_" || name == "." || s.names[name] != "" {
				name = p
			}
			s.names[name] = p
		}
		list = append(list, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 40 {
		t.Fatalf("only %d Go files found: this test looks in the wrong place", len(list))
	}
	return list
}

func TestImportsGoDownOnly(t *testing.T) {
	t.Parallel()
	for _, s := range parse(t) {
		if s.isTest {
			continue
		}
		for _, p := range s.imports() {
			if p == "github.com/rs/zerolog/log" || p == "log" && !inTest(s.pkg) {
				t.Errorf("%s uses a global logger (%s): pass a zerolog.Logger by value", s.file, p)
			}
			target, ours := strings.CutPrefix(p, module+"/")
			if !ours {
				if s.pkg == "states" && strings.Contains(p, ".") && p != "github.com/looplab/fsm" {
					t.Errorf("%s imports %s: states needs the standard library and looplab/fsm only", s.file, p)
				}
				continue
			}
			if err := mayImport(s.pkg, target); err != nil {
				t.Errorf("%s: %v", s.file, err)
			}
		}
	}
}

func inTest(pkg string) bool { return pkg == "test" || strings.HasPrefix(pkg, "test/") }

func mayImport(from, to string) error {
	from, to = command(from), command(to)
	switch {
	case inTest(to):
		if inTest(from) || from == "cmd/devstack" {
			return nil
		}
		return fmt.Errorf("%s imports test code (%s)", from, to)
	case strings.HasPrefix(to, "cmd/"):
		if from == to {
			return nil
		}
		return fmt.Errorf("%s imports a command (%s)", from, to)
	case inTest(from):
		return nil
	}
	above, known := levels[from]
	below, knownTarget := levels[to]
	switch {
	case !known || !knownTarget:
		return fmt.Errorf("%s imports %s: give both a level in test/arch_test.go", from, to)
	case below >= above:
		return fmt.Errorf("%s (level %d) imports %s (level %d): imports go down only", from, above, to, below)
	case slices.Contains(apart[from], to):
		return fmt.Errorf("%s imports %s: name what is needed as an interface and let the daemon wire it", from, to)
	}
	return nil
}

// command is the command that a package below cmd belongs to; other packages stand for themselves.
func command(pkg string) string {
	if parts := strings.Split(pkg, "/"); parts[0] == "cmd" && len(parts) > 2 {
		return path.Join(parts[:2]...)
	}
	return pkg
}

func TestImportRuleRefuses(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{
		{"states", "config"},
		{"store", "handlers"},
		{"orchestrator", "store"},
		{"orchestrator", "orchestrator/daemon"},
		{"handlers/nats", "handlers/pubnub"},
		{"handlers", "test/redis"},
		{"cmd/consultd", "test/pubnub"},
		{"cmd/consultd", "cmd/devstack"},
		{"store", "unheard/of"},
	} {
		if mayImport(pair[0], pair[1]) == nil {
			t.Errorf("%s may import %s", pair[0], pair[1])
		}
	}
	for _, pair := range [][2]string{{"cmd/devstack/clinic", "test/pubnub"}, {"orchestrator/daemon", "store"}, {"cmd/consultd", "orchestrator/daemon"}, {"test/clinic", "handlers"}} {
		if err := mayImport(pair[0], pair[1]); err != nil {
			t.Error(err)
		}
	}
}

func TestEveryPackageHasALevelAndADuty(t *testing.T) {
	t.Parallel()
	docs := map[string]string{}
	for _, s := range parse(t) {
		if _, seen := docs[s.pkg]; !seen {
			docs[s.pkg] = ""
		}
		if s.syntax.Doc != nil {
			if text := s.syntax.Doc.Text(); len(text) > len(docs[s.pkg]) {
				docs[s.pkg] = text
			}
		}
	}
	for _, pkg := range slices.Sorted(maps.Keys(docs)) {
		text := docs[pkg]
		if !strings.HasPrefix(text, "Package ") && !strings.HasPrefix(text, "Command ") {
			t.Errorf("%s has no package comment that says its duty", pkg)
			continue
		}
		if _, known := levels[pkg]; known && !regexp.MustCompile(`(?i)\b(never|nothing|no|not|neither)\b`).MatchString(text) {
			t.Errorf("the comment of %s does not say what the package never does", pkg)
		}
		if _, known := levels[command(pkg)]; !known && !inTest(pkg) {
			t.Errorf("%s has no level in test/arch_test.go", pkg)
		}
	}
	for pkg := range levels {
		if _, exists := docs[pkg]; !exists && pkg != "cmd/consultd" && pkg != "cmd/devstack" {
			t.Errorf("%s has a level but no files", pkg)
		}
	}
}

func TestEnvironmentIsReadInConfigOnly(t *testing.T) {
	t.Parallel()
	for _, s := range parse(t) {
		if s.isTest || inTest(s.pkg) || s.pkg == "config" || command(s.pkg) == "cmd/devstack" {
			continue
		}
		for _, name := range append(s.uses("os"), s.uses("syscall")...) {
			if slices.Contains([]string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"}, name) {
				t.Errorf("%s reads the environment (%s): configuration is package config's", s.file, name)
			}
		}
	}
}

func TestClockIsReadAtTheEdgesOnly(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for _, s := range parse(t) {
		if s.isTest || inTest(s.pkg) || strings.HasPrefix(s.pkg, "cmd/") {
			continue
		}
		for _, name := range s.uses("time") {
			if !slices.Contains([]string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}, name) {
				continue
			}
			used[s.file] = true
			if clocks[s.file] == "" || s.pkg == "states" {
				t.Errorf("%s uses time.%s: take the time from the event, or add the file to clocks with its reason", s.file, name)
			}
			if name == "Sleep" {
				t.Errorf("%s sleeps, deaf to its context", s.file)
			}
		}
	}
	stale(t, "clocks", clocks, used)
}

func TestSecretsAreRevealedByFewOnly(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	for _, s := range parse(t) {
		if s.isTest || inTest(s.pkg) {
			continue
		}
		ast.Inspect(s.syntax, func(n ast.Node) bool {
			if selector, ok := n.(*ast.SelectorExpr); ok && selector.Sel.Name == "Reveal" {
				used[s.file] = true
			}
			return true
		})
		if used[s.file] && reveals[s.file] == "" {
			t.Errorf("%s calls Reveal: hand the value on in its type, or add the file to reveals with its reason", s.file)
		}
	}
	stale(t, "reveals", reveals, used)
}

// stale reports allowances that nobody uses any more.
func stale(t *testing.T, name string, allowed map[string]string, used map[string]bool) {
	t.Helper()
	for _, file := range slices.Sorted(maps.Keys(allowed)) {
		if !used[file] {
			t.Errorf("%s need not stand in %s any more", file, name)
		}
	}
}

func TestTestsNeitherSleepNorSkip(t *testing.T) {
	t.Parallel()
	for _, s := range parse(t) {
		if s.isTest && slices.Contains(s.uses("time"), "Sleep") {
			t.Errorf("%s sleeps: wait for a condition, or use testing/synctest", s.file)
		}
		if !s.isTest {
			continue
		}
		ast.Inspect(s.syntax, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if selector, ok := call.Fun.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, selector.Sel.Name) {
				if x, ok := selector.X.(*ast.Ident); ok && slices.Contains([]string{"t", "b", "tb", "f"}, x.Name) {
					t.Errorf("%s skips a test: each hides a promise", s.file)
				}
			}
			return true
		})
	}
}

// TestBinaryLinksNoTestCode asks the compiler's own list of what goes into consultd. The PubNub SDK brings testify along;
// nothing else of the kind may come.
func TestBinaryLinksNoTestCode(t *testing.T) {
	t.Parallel()
	command := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/consultd")
	command.Dir = ".."
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, module+"/orchestrator/daemon") {
		t.Error("cmd/consultd does not link the daemon: this test proves nothing")
	}
	for _, dep := range deps {
		for _, banned := range []string{
			module + "/test", module + "/cmd/devstack", "github.com/nats-io/nats-server", "github.com/alicebob/miniredis",
			"github.com/Shopify/toxiproxy", "pgregory.net/rapid", "github.com/rogpeppe/go-internal", "github.com/rs/zerolog/log",
		} {
			if dep == banned || strings.HasPrefix(dep, banned+"/") {
				t.Errorf("consultd links %s", dep)
			}
		}
	}
}

func TestReadmeNamesTheTwoCommands(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"go run ./cmd/devstack", "make test"} {
		if !strings.Contains(string(readme), command) {
			t.Errorf("README.md does not name %q", command)
		}
	}
	ci, err := os.ReadFile("../.ci/run")
	if err != nil || !strings.Contains(string(ci), "make test") {
		t.Errorf(".ci/run does not call make test (%v)", err)
	}
}
