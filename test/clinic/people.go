package clinic

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	sdk "github.com/pubnub/go/v7"
	"github.com/pubnub/go/v7/crypto"
)

// M is a message's body.
type M = map[string]any

// Backend speaks over NATS as whoever it names.
type Backend struct {
	c    *Clinic
	conn *nats.Conn
	js   jetstream.JetStream
}

// Backend connects to NATS.
func (c *Clinic) Backend() *Backend {
	c.tb.Helper()
	conn, err := nats.Connect(c.NATS.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		c.tb.Fatal(err)
	}
	return &Backend{c: c, conn: conn, js: js}
}

// Say publishes a message on a channel for an actor ("role:id"), waits until the log has it, and returns its position.
// A missing id and timestamp are filled in.
func (b *Backend) Say(actor, channel string, body M) uint64 {
	b.c.tb.Helper()
	if _, ok := body["id"]; !ok {
		body["id"] = fmt.Sprintf("m-%d", time.Now().UnixNano())
	}
	if _, ok := body["timestamp"]; !ok {
		body["timestamp"] = time.Now().UTC().Format(time.RFC3339Nano)
	}
	data, err := json.Marshal(body)
	if err != nil {
		b.c.tb.Fatal(err)
	}
	return b.SayRaw(actor, channel, data)
}

// SayRaw publishes bytes as they are.
func (b *Backend) SayRaw(actor, channel string, data []byte) uint64 {
	b.c.tb.Helper()
	role, id := splitActor(actor)
	msg := &nats.Msg{Subject: "consult.in." + channel, Data: data, Header: nats.Header{}}
	if actor != "" {
		msg.Header.Set("Consult-Actor", id)
		msg.Header.Set("Consult-Role", role)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		try, cancel := context.WithTimeout(ctx, time.Second) // a request that was lost with a connection is never answered
		ack, err := b.js.PublishMsg(try, msg)
		cancel()
		if err == nil {
			return ack.Sequence
		}
		if ctx.Err() != nil {
			b.c.tb.Fatalf("the log did not take a message on %s: %v", channel, err)
		}
	}
}

// DeleteStream deletes a stream, as somebody with the wrong command line would.
func (b *Backend) DeleteStream(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return b.js.DeleteStream(ctx, name)
}

func splitActor(actor string) (role, id string) {
	for i := range len(actor) {
		if actor[i] == ':' {
			return actor[:i], actor[i+1:]
		}
	}
	return actor, actor
}

// App is somebody's app: a real PubNub client with the clinic's cipher key.
type App struct {
	c        *Clinic
	User     string
	client   *sdk.PubNub
	listener *sdk.Listener

	mu  sync.Mutex
	got []Heard
}

// Heard is one message that somebody saw.
type Heard struct {
	Channel string
	Body    M
	At      time.Time
}

// App opens an app for a user, listening on the given channels (often notification.{user}).
func (c *Clinic) App(user string, channels ...string) *App {
	c.tb.Helper()
	server := c.PubNub.Config()
	config := sdk.NewConfigWithUserId(sdk.UserId(user))
	config.Origin, config.Secure = c.PubNub.Origin(), false
	config.PublishKey, config.SubscribeKey = server.PublishKey, server.SubscribeKey
	config.MaxWorkers = 0
	module, err := crypto.NewAesCbcCryptoModule(CipherKey, true)
	if err != nil {
		c.tb.Fatal(err)
	}
	config.CryptoModule = module
	a := &App{c: c, User: user, client: sdk.NewPubNub(config), listener: sdk.NewListener()}
	if len(channels) == 0 {
		return a
	}
	connected := make(chan struct{})
	done := make(chan struct{})
	c.tb.Cleanup(func() {
		a.client.UnsubscribeAll()
		close(done)
	})
	go a.listen(connected, done)
	a.client.AddListener(a.listener)
	a.client.Subscribe().Channels(channels).Execute()
	select {
	case <-connected:
	case <-time.After(patience):
		c.tb.Fatalf("app of %s did not connect", user)
	}
	return a
}

func (a *App) listen(connected, done chan struct{}) {
	var once sync.Once
	for {
		select {
		case s := <-a.listener.Status:
			if s.Category == sdk.PNConnectedCategory {
				once.Do(func() { close(connected) })
			}
		case m := <-a.listener.Message:
			body, _ := m.Message.(map[string]any)
			if _, push := body["pn_fcm"]; push {
				continue // for the push gateways, not for the app
			}
			a.mu.Lock()
			a.got = append(a.got, Heard{m.Channel, body, time.Now()})
			a.mu.Unlock()
		case <-a.listener.Presence:
		case <-done:
			return
		}
	}
}

// Say publishes an encrypted message.
func (a *App) Say(channel string, body M) {
	a.c.tb.Helper()
	if _, ok := body["timestamp"]; !ok {
		body["timestamp"] = time.Now().UTC().Format(time.RFC3339Nano)
	}
	if _, _, err := a.client.Publish().Channel(channel).Message(body).UsePost(true).Execute(); err != nil {
		a.c.tb.Fatalf("app of %s: publish: %v", a.User, err)
	}
}

// Await returns the first message that fits, waiting for it.
func (a *App) Await(what string, fits func(Heard) bool) Heard {
	a.c.tb.Helper()
	return await(a.c.tb, what, a.Heard, fits)
}

// Heard is everything so far.
func (a *App) Heard() []Heard {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Heard(nil), a.got...)
}
