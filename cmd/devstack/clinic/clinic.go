// Package clinic simulates a small clinic around a running consultd: a backend on NATS, and providers, patients and people
// on call with PubNub SDK clients of their own. It never looks into consultd: all it knows is what it is told on the
// channels, as an app would be.
package clinic

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/pubnub/go/v7/crypto"

	"consultd/handlers"
)

// Options says where the clinic's people connect to, and what is left to chance.
type Options struct {
	NATS                     string // URL
	Origin                   string // of PubNub, host:port, without TLS
	PublishKey, SubscribeKey string
	CipherKey                string
	Seed                     uint64       // the same seed makes the same plans; how long consultd takes is not planned
	Pace                     float64      // how many times faster than usual everybody is; 1 is usual
	Run                      int          // from 1; runs on the same data need different numbers
	Complain                 func(string) // told in one line what does not work
}

// The cast's departments and size. Who is paged is up to consultd's configuration; whoever of the cast it is answers.
const (
	cardiology  = "cardiology"
	paediatrics = "paediatrics"
	patients    = 6
)

const (
	arrivalLeast = 1500 * time.Millisecond // between one visit and the next
	arrivalMost  = 3 * time.Second
)

// Clinic is the people and what they are doing.
type Clinic struct {
	o         Options
	conn      *nats.Conn
	backend   jetstream.JetStream
	providers []*provider
	onCall    []*person
	patients  chan *person // those who are not in a visit
	all       []*person
	inbox     inbox
	work      sync.WaitGroup
}

// provider sees one patient at a time.
type provider struct {
	*person
	department string
	room       chan struct{} // holds one token while the provider is free
}

// Start lets everybody come online and listen. Nobody does anything before Run.
func Start(ctx context.Context, o Options) (*Clinic, error) {
	c := &Clinic{o: o, patients: make(chan *person, patients)}
	if err := c.connect(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("simulated clinic: %w", err)
	}
	return c, nil
}

func (c *Clinic) connect(ctx context.Context) error {
	conn, err := nats.Connect(c.o.NATS, nats.Name("simulated clinic"), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	c.conn = conn
	if c.backend, err = jetstream.New(conn); err != nil {
		return err
	}
	module, err := crypto.NewAesCbcCryptoModule(c.o.CipherKey, true)
	if err != nil {
		return fmt.Errorf("crypto module: %w", err)
	}
	appear := func(id string) *person {
		p := newPerson(id, c.o, module, c.hear)
		c.all = append(c.all, p)
		return p
	}
	for _, p := range [][2]string{{"dr-lindgren", cardiology}, {"dr-okafor", cardiology}, {"dr-sato", paediatrics}} {
		free := make(chan struct{}, 1)
		free <- struct{}{}
		c.providers = append(c.providers, &provider{appear(p[0]), p[1], free})
	}
	c.onCall = []*person{c.providers[1].person, c.providers[2].person, appear("dr-haddad"), appear("switchboard")}
	for i := range patients {
		// Visits of an earlier run may still be open: its patients come no more.
		c.patients <- appear(fmt.Sprintf("pat-%d", 100*c.o.Run+i+1))
	}
	for _, p := range c.all {
		if err := p.listen(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Run opens the doors: visits begin until ctx ends. It returns when everybody has stopped in the middle of what they did.
func (c *Clinic) Run(ctx context.Context) {
	defer c.work.Wait()
	for number := 1; ; number++ {
		plan := c.plan(number)
		var patient *person
		select {
		case patient = <-c.patients:
		case <-ctx.Done():
			return
		}
		next := plan.between(arrivalLeast, arrivalMost)
		v := &visit{
			clinic: c, plan: plan, id: c.appointment(number),
			patient: patient, provider: c.providers[(number+plan.rng.IntN(2))%len(c.providers)],
		}
		c.work.Go(func() { // from here on the plan is the visit's alone
			defer func() { c.patients <- patient }()
			if err := v.run(ctx); err != nil && ctx.Err() == nil {
				c.o.Complain(v.id + ": " + err.Error())
			}
		})
		if !next.wait(ctx) {
			return
		}
	}
}

// appointment is the id of a visit, which no earlier run has used.
func (c *Clinic) appointment(number int) string {
	if c.o.Run == 1 {
		return fmt.Sprintf("apt-%04d", number)
	}
	return fmt.Sprintf("apt-%d-%04d", c.o.Run, number)
}

// Close lets everybody go offline.
func (c *Clinic) Close() {
	var leaving sync.WaitGroup
	for _, p := range c.all {
		leaving.Go(p.leave)
	}
	leaving.Wait()
	if c.conn != nil {
		c.conn.Close()
	}
}

// tell is the backend speaking: over NATS, in its own name.
func (c *Clinic) tell(ctx context.Context, channel string, m message) error {
	data, id, err := m.encode()
	if err != nil {
		return err
	}
	out := nats.NewMsg(handlers.InSubject(channel))
	out.Data = data
	out.Header.Set(handlers.HeaderActor, "clinic-backend")
	out.Header.Set(handlers.HeaderRole, "backend")
	out.Header.Set(handlers.HeaderMsgID, id)
	return insist(ctx, c.o.Complain, func(ctx context.Context) error {
		_, err := c.backend.PublishMsg(ctx, out)
		return err
	})
}

// hear is what happens when somebody's phone buzzes.
func (c *Clinic) hear(p *person, n notice) {
	c.inbox.deliver(p.id, n)
	if slices.Contains(c.onCall, p) {
		c.onCallHears(p, n)
	}
}

// delay is a time that somebody takes.
type delay time.Duration

// wait takes the time, and says whether ctx is still alive after it.
func (d delay) wait(ctx context.Context) bool {
	timer := time.NewTimer(time.Duration(d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// plan is one visit's or one page's share of chance.
type plan struct {
	rng  *rand.Rand
	pace float64
	kind kind
}

func (c *Clinic) chance(number uint64) plan {
	return plan{rng: rand.New(rand.NewPCG(c.o.Seed, number)), pace: c.o.Pace} //nolint:gosec // reproducible, not secret
}

func (p plan) between(least, most time.Duration) delay {
	return delay(float64(least+time.Duration(p.rng.Int64N(int64(most-least)))) / p.pace)
}

func (p plan) chance(percent int) bool { return p.rng.IntN(100) < percent }
