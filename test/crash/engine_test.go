package crash_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"consultd/handlers"
	"consultd/handlers/nats"
	"consultd/handlers/pubnub"
	"consultd/orchestrator"
	"consultd/orchestrator/daemon"
	"consultd/states"
	"consultd/test/clinic"
)

// engine is the engine alone, on the clinic's real servers, for what no configuration can bring about: decisions that panic,
// and outboxes with a small bound.
type engine struct {
	log *clinic.Lines
}

func runEngine(t *testing.T, c *clinic.Clinic, backlog int, wrap func(orchestrator.Codec) orchestrator.Codec) (e engine, stop func()) {
	t.Helper()
	e.log = &clinic.Lines{}
	log := zerolog.New(e.log)
	ring, err := pubnub.NewKeyRing(clinic.CipherKey)
	if err != nil {
		t.Fatal(err)
	}
	codec, err := handlers.New(handlers.Options{Organization: clinic.Organization, Decrypt: ring.Decrypt})
	if err != nil {
		t.Fatal(err)
	}
	o := orchestrator.Options{
		Owner: "engine-" + t.Name(), Lease: c.Config.Redis.Lease, Drain: c.Config.Shutdown.Drain,
		Rules: c.Config.Rules(), Codec: wrap(codec), Metrics: orchestrator.NewMetrics(prometheus.NewRegistry()), Log: log,
	}
	p := c.PubNub.Config()
	apps, err := pubnub.NewPublisher(pubnub.PublisherOptions{
		Account: pubnub.Account{Endpoint: c.PubNub.URL(), PublishKey: p.PublishKey, SubscribeKey: p.SubscribeKey, SecretKey: p.SecretKey, User: c.Config.PubNub.UserID},
		Ring:    ring, Stats: &pubnub.Stats{},
	})
	if err != nil {
		t.Fatal(err)
	}
	for lane, partitions := range map[states.Lane]int{states.LaneNormal: c.Config.Partitions.Normal, states.LaneEmergency: c.Config.Partitions.Emergency} {
		client, err := nats.Connect(t.Context(), nats.Options{URLs: c.Config.NATS.URLs, Name: "engine", Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		if err := nats.Reconcile(t.Context(), client.JS, nats.DefaultStreamOptions()); err != nil {
			t.Fatal(err)
		}
		s, err := daemon.OpenStore(t.Context(), c.Config, log)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		marks, err := nats.NewMarks(t.Context(), client.JS, nats.StreamOf(lane), partitions)
		if err != nil {
			t.Fatal(err)
		}
		broker := nats.NewPublisher(client)
		o.Lanes = append(o.Lanes, orchestrator.LaneOptions{
			Lane: lane, Partitions: partitions, Log: nats.NewLog(client, lane, nil), Store: s, Marks: marks, Dead: broker, Backlog: backlog,
			Sinks: map[states.Sink]orchestrator.Publisher{states.SinkNATS: broker, states.SinkAudit: nats.NewAudit(client), states.SinkPubNub: apps},
		})
	}
	built, err := orchestrator.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- built.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the engine ended with: %v", err)
		}
		ended <- nil
	}
	t.Cleanup(stop)
	return e, stop
}

func asItIs(c orchestrator.Codec) orchestrator.Codec { return c }

// trap is a codec with a mistake in it: it panics where a patient's name is the trap's, while it is armed.
type trap struct {
	orchestrator.Codec
	patient string
	decode  bool
	sprung  *atomic.Int32
}

func (tr trap) Decode(e states.Entry) (states.Event, error) {
	if tr.decode && strings.Contains(string(e.Data), tr.patient) {
		tr.sprung.Add(1)
		panic("a mistake in the decoder")
	}
	return tr.Codec.Decode(e)
}

func (tr trap) Encode(rules *states.Rules, ev states.Event, d *states.Decision) (map[states.Sink][]states.Message, error) {
	if !tr.decode && ev.Patient == tr.patient {
		tr.sprung.Add(1)
		panic("a mistake in the encoder")
	}
	return tr.Codec.Encode(rules, ev, d)
}

// P14: an entry that makes the program panic goes to the dead letters with its reason and delays nothing behind it. When the
// mistake is mended and the letter is replayed, it works, once.
func TestP14_AnEntryThatPanicsIsADeadLetter(t *testing.T) {
	t.Parallel()
	for code, decode := range map[string]bool{"unreadable": true, "panic": false} {
		t.Run(code, func(t *testing.T) {
			t.Parallel()
			c := slowly(t, clinic.Options{})
			var sprung atomic.Int32
			_, stop := runEngine(t, c, 1000, func(inner orchestrator.Codec) orchestrator.Codec { return trap{inner, "pat-1", decode, &sprung} })
			o, p := observe(t, c), arrive(t, c)
			poison, after := p.newVisit(p.nats), p.newVisit(p.nats)
			after.provider, after.room, after.consulted = poison.provider, poison.room, handlers.Consultation(poison.provider, after.patient)
			poison.checkIn()
			after.checkIn()
			seen := c.Observe()
			letter := seen.Await("the dead letter", clinic.On("dead."+code))
			seen.Await("the patient behind it", clinic.With("notification."+after.provider, clinic.M{"type": "PATIENT_READY", "appointmentId": after.appointment}))
			if n := sprung.Load(); n != 1 {
				t.Errorf("P14: the entry was attempted %d times", n)
			}
			stop()

			runEngine(t, c, 1000, asItIs)
			letters := nats.NewDeadLetters(o.client)
			id, _ := letter.Body["id"].(string)
			for range 2 { // the second time is a repeat
				if _, err := letters.Replay(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			ready := clinic.With("notification."+poison.provider, clinic.M{"type": "PATIENT_READY", "appointmentId": poison.appointment})
			seen.Await("the replayed check-in", ready)
			after.ready()
			seen.Await("what comes after it", clinic.With(after.consulted, clinic.M{"state": "waiting"}))
			if n := len(seen.All(ready)); n != 1 {
				t.Errorf("P14: the replayed check-in had its effect %d times", n)
			}
		})
	}
}

// P17: a sink takes nothing. Its outbox grows to its bound and no further, because the partition pauses; other partitions
// and emergencies go on; and everything is said when the sink is back.
func TestP17_AnOutboxStopsGrowingAtItsBound(t *testing.T) {
	t.Parallel()
	const bound = 8
	c := slowly(t, clinic.Options{})
	if err := c.PubNub.Inject(publishStalls()); err != nil {
		t.Fatal(err)
	}
	e, _ := runEngine(t, c, bound, asItIs)
	o, p := observe(t, c), arrive(t, c)
	for range 30 {
		v := p.newVisit(p.nats)
		v.provider, v.room, v.consulted = "dr-busy", "waiting-room.dr-busy", handlers.Consultation("dr-busy", v.patient)
		v.checkIn()
	}
	c.Eventually("the pause", func() (bool, string) {
		return strings.Contains(e.log.String(), "outbox at its bound"), e.log.Tail(3)
	})
	seen := c.Observe()
	other := p.newVisit(p.nats)
	other.checkIn()
	seen.Await("another provider's patient", clinic.With("notification."+other.provider, clinic.M{"type": "PATIENT_READY"}))
	id := p.raise(p.nats, "cardiology")
	seen.Await("the page", clinic.With("page.sms.dr-chen", clinic.M{"escalationId": id}))
	for k, n := range o.outboxes() {
		if n > bound+1 {
			t.Errorf("P17: %s holds %d entries, the bound is %d", k, n, bound)
		}
	}
	if why := o.busy(); why == "" {
		t.Error("everything was decided: nothing was tested")
	}
	c.PubNub.ClearFaults()
	o.settle()
	o.ingested()
	o.stored()
	o.saidOnNATS()
	o.saidOnPubNub()
}
