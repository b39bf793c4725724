package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// style is how a line is shown on a terminal. Elsewhere it is plain text.
type style string

const (
	plain  style = ""
	bold   style = "1"
	faint  style = "2"
	red    style = "1;31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

// maxLine is how long a line may get before it is broken: what fits into most terminals.
const maxLine = 109

// continued is what the further lines of a broken line begin with, so that the columns of time and visit stay clear.
const continued = "                      "

// screen is the one writer of everything that the user reads.
type screen struct {
	mu     sync.Mutex
	out    io.Writer
	colour bool
}

func newScreen(out *os.File) *screen {
	info, err := out.Stat()
	return &screen{out: out, colour: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

// line writes one line, or more where it is too long.
func (s *screen) line(look style, format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), " ")
	var all strings.Builder
	for rest := []rune(text); len(rest) > 0; {
		end := len(rest)
		if end > maxLine {
			end = maxLine
			if space := lastSpace(rest[:maxLine+1]); space > len(continued) {
				end = space
			}
		}
		all.WriteString(s.paint(look, string(rest[:end])) + "\n")
		if rest = []rune(strings.TrimLeft(string(rest[end:]), " ")); len(rest) > 0 {
			rest = append([]rune(continued), rest...)
		}
	}
	s.raw(all.String())
}

func lastSpace(text []rune) int {
	for i := len(text) - 1; i > 0; i-- {
		if text[i] == ' ' {
			return i
		}
	}
	return 0
}

// at writes one line with the time of day in front.
func (s *screen) at(t time.Time, look style, format string, args ...any) {
	s.line(look, "%s  %s", t.Local().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

func (s *screen) paint(look style, text string) string {
	if !s.colour || look == plain || text == "" {
		return text
	}
	return "\x1b[" + string(look) + "m" + text + "\x1b[0m"
}

// raw writes text that is whole lines already. A screen that is gone is no reason to stop working: SIGPIPE says so.
func (s *screen) raw(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _ = io.WriteString(s.out, text)
}

// greeting is the first thing a user sees.
type greeting struct {
	ready     readiness
	redis     string // what kind of Redis it is
	data      string
	kept      bool
	cipherKey string // the file
	log       string // the daemon's log file, "" without a daemon
	sim, own  bool   // a simulated clinic; a consultd of its own
}

func (g greeting) show(s *screen) {
	row := func(name, value, note string) {
		if note != "" {
			value = fmt.Sprintf("%-38s  %s", value, s.paint(faint, note))
		}
		s.raw("  " + s.paint(bold, fmt.Sprintf("%-9s", name)) + " " + value + "\n")
	}
	redisHost, redisPort, err := net.SplitHostPort(g.ready.Redis)
	if err != nil { // it was made by JoinHostPort
		redisHost, redisPort = g.ready.Redis, ""
	}
	s.raw("\n")
	row("NATS", g.ready.NATS, "embedded nats-server with JetStream")
	row("Redis", g.ready.Redis, g.redis)
	row("PubNub", g.ready.PubNub, "stand-in; keys "+g.ready.PublishKey+", "+g.ready.SubscribeKey)
	if g.own {
		row("consultd", g.ready.Ops, "/healthz  /readyz  /metrics")
	} else {
		row("consultd", "not started", "consultd run --config "+g.ready.Config)
	}
	switch {
	case g.sim:
		row("clinic", "3 providers, 6 patients, 2 departments", "simulated; --sim=off for an empty clinic")
	default:
		row("clinic", "nobody", "--sim=clinic for simulated patients and staff")
	}
	if g.kept {
		row("data", g.data, "kept")
	} else {
		row("data", g.data, "removed at exit; --data DIR keeps it")
	}
	row("config", g.ready.Config, "")
	if g.log != "" {
		row("log", g.log, "")
	}
	s.raw("\n" + s.paint(bold, "Look closer, in another terminal") + "\n")
	s.raw("  nats -s " + g.ready.NATS + " sub 'consult.>'\n")
	s.raw("  redis-cli -h " + redisHost + " -p " + redisPort + " monitor\n")
	if g.own {
		s.raw("  curl -s " + g.ready.Ops + "/readyz\n")
	}
	s.raw("  curl -s '" + g.ready.PubNub + "/_standin/published?channel=notification.dr-sato'\n")
	if g.own {
		s.raw("  nats -s " + g.ready.NATS + " pub -J consult.in.emergency.cardiology -H Consult-Actor:nurse-1 -H Consult-Role:nurse \\\n" +
			"    '" + `{"action":"EMERGENCY_ESCALATION","id":"try-1","escalatedBy":"nurse-1","severity":"urgent"}` + "'\n")
	}
	s.raw("  cat " + g.cipherKey + s.paint(faint, "   # what the apps encrypt with") + "\n")
	s.raw("\n")
	if g.own {
		s.raw(s.paint(bold, "What consultd says") + s.paint(faint, "  (Ctrl-C stops everything)") + "\n")
	} else {
		s.raw(s.paint(faint, "Ctrl-C stops everything.") + "\n")
	}
}
