package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"

	"consultd/test/natsserver"
	"consultd/test/redis"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"consultd": main})
}

const patience = 30 * time.Second

// TestScripts runs every script in testdata/script as an operator would: the real binary against real servers of its own.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			now := time.Now().UTC()
			env.Setenv("NOW", now.Format(time.RFC3339))
			env.Setenv("SOON", now.Add(10*time.Minute).Format(time.RFC3339))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"servers":  servers,
			"ready":    ready,
			"publish":  publish,
			"messages": messages,
			"capture":  capture,
		},
	})
}

// servers starts NATS and Redis for one script and sets NATS_URL, REDIS_ADDR and a free OPS_ADDR.
func servers(ts *testscript.TestScript, _ bool, _ []string) {
	broker, err := natsserver.Start(natsserver.Options{StoreDir: ts.MkAbs("jetstream")})
	ts.Check(err)
	ts.Defer(func() { _ = broker.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	db, err := redis.Start(ctx, redis.Options{})
	ts.Check(err)
	ts.Defer(db.Stop)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Check(l.Close())
	ts.Setenv("NATS_URL", broker.URL())
	ts.Setenv("REDIS_ADDR", db.Addr())
	ts.Setenv("OPS_ADDR", l.Addr().String())
}

func await(ts *testscript.TestScript, what string, reached func(context.Context) bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !reached(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			ts.Fatalf("still waiting for %s", what)
		}
	}
}

// ready waits until the daemon says that it is ready.
func ready(ts *testscript.TestScript, _ bool, _ []string) {
	await(ts, "the daemon", func(ctx context.Context) bool {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ts.Getenv("OPS_ADDR")+"/readyz", nil)
		ts.Check(err)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

func connect(ts *testscript.TestScript) (jetstream.JetStream, func()) {
	conn, err := nats.Connect(ts.Getenv("NATS_URL"))
	ts.Check(err)
	js, err := jetstream.New(conn)
	ts.Check(err)
	return js, conn.Close
}

// publish SUBJECT FILE sends a message as the backend, with $NOW and $SOON filled in.
func publish(ts *testscript.TestScript, _ bool, args []string) {
	js, done := connect(ts)
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m := nats.NewMsg(args[0])
	m.Header.Set("Consult-Actor", "backend-1")
	m.Header.Set("Consult-Role", "backend")
	m.Data = []byte(os.Expand(ts.ReadFile(args[1]), ts.Getenv))
	_, err := js.PublishMsg(ctx, m)
	ts.Check(err)
}

// messages STREAM N waits until a stream has held at least N messages.
func messages(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.ParseUint(args[1], 10, 64)
	ts.Check(err)
	js, done := connect(ts)
	defer done()
	await(ts, args[1]+" messages in "+args[0], func(ctx context.Context) bool {
		stream, err := js.Stream(ctx, args[0])
		return err == nil && stream.CachedInfo().State.LastSeq >= want
	})
}

// capture NAME REGEXP sets a variable to the first group in what the last command printed.
func capture(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) != 2 {
		ts.Fatalf("no match for %s", args[1])
	}
	ts.Setenv(args[0], found[1])
}
