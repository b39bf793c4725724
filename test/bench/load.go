package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// step is one event of a visit: what is said, by whom, and in which channel.
type step struct {
	action, role string
	room         bool // on the waiting-room channel, else on the consultation's
}

// steps are the events of a visit that goes well. Each changes the state, and the change is announced.
var steps = []step{
	{"APPOINTMENT_SCHEDULED", "backend", true},
	{"PATIENT_CHECKED_IN", "patient", true},
	{"PATIENT_READY_CONFIRMED", "patient", true},
	{"PROVIDER_JOINED", "provider", false},
	{"PATIENT_JOINED", "patient", false},
	{"CONSULTATION_ENDED", "provider", false},
	{"NOTES_COMPLETED", "provider", false},
}

// visit is one visit's place in the load.
type visit struct {
	n    int
	step atomic.Int32 // events whose effect was seen
	sent [7]time.Time
	next chan struct{} // signalled when an effect was seen
}

func (v *visit) provider() string { return "dr-" + strconv.Itoa(v.n%997) }
func (v *visit) patient() string  { return "p-" + strconv.Itoa(v.n) }

func (v *visit) message(prefix string, i int) *nats.Msg {
	s := steps[i]
	provider, patient := v.provider(), v.patient()
	consultation := "consultation." + provider + "." + patient
	channel := consultation
	if s.room {
		channel = "waiting-room." + provider
	}
	id := "m-" + strconv.Itoa(v.n) + "-" + strconv.Itoa(i)
	body := map[string]any{"id": id, "action": s.action, "timestamp": time.Now().UTC().Format(time.RFC3339Nano)}
	switch s.action {
	case "APPOINTMENT_SCHEDULED":
		body["patientId"], body["providerId"], body["departmentId"] = patient, provider, "dep-"+strconv.Itoa(v.n%7)
		body["startsAt"] = time.Now().UTC().Format(time.RFC3339)
	case "PATIENT_CHECKED_IN":
		body["patientId"], body["consultationId"] = patient, consultation
	case "PATIENT_READY_CONFIRMED":
		body["deviceReady"] = true
	case "PATIENT_JOINED":
		body["patientId"] = patient
	case "CONSULTATION_ENDED":
		body["providerId"], body["summary"] = provider, map[string]any{"duration": 10, "followUpRequired": false}
	default:
		body["providerId"] = provider
	}
	if s.room {
		body["appointmentId"] = "apt-" + strconv.Itoa(v.n)
	}
	data, _ := json.Marshal(body)
	actor := map[string]string{"backend": "scheduler", "patient": patient, "provider": provider}[s.role]
	subject := prefix + channel
	if prefix == barePrefix { // one shape of subject, so that an effect finds its visit
		subject = prefix + provider + "." + patient
	}
	return &nats.Msg{Subject: subject, Data: data, Header: nats.Header{
		"Nats-Msg-Id": {id}, "Consult-Actor": {actor}, "Consult-Role": {s.role},
	}}
}

const (
	consultdPrefix = "consult.in."
	barePrefix     = "bare.in."
)

// load drives visits through a pipeline and measures from saying an event to seeing its effect.
type load struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	prefix string

	mu        sync.Mutex
	visits    map[string]*visit // by provider and patient
	latencies []time.Duration
}

func newLoad(url, prefix, effects string) (*load, error) {
	nc, err := nats.Connect(url)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(8192))
	if err != nil {
		return nil, err
	}
	l := &load{nc: nc, js: js, prefix: prefix, visits: map[string]*visit{}}
	sub, err := nc.Subscribe(effects, l.see)
	if err != nil {
		return nil, err
	}
	return l, errors.Join(sub.SetPendingLimits(-1, -1), nc.Flush())
}

func (l *load) close() { l.nc.Close() }

// see takes note of an effect: the state change, or the bare pipeline's echo.
func (l *load) see(m *nats.Msg) {
	now := time.Now()
	tokens := strings.Split(m.Subject, ".")
	if l.prefix == consultdPrefix && !strings.Contains(string(m.Data), `"STATE_CHANGED"`) {
		return
	}
	l.mu.Lock()
	v := l.visits[tokens[len(tokens)-2]+"."+tokens[len(tokens)-1]]
	if v != nil {
		i := v.step.Load()
		l.latencies = append(l.latencies, now.Sub(v.sent[i]))
		v.step.Store(i + 1)
	}
	l.mu.Unlock()
	if v != nil {
		v.next <- struct{}{}
	}
}

func (l *load) add(n int) *visit {
	v := &visit{n: n, next: make(chan struct{}, len(steps))}
	l.mu.Lock()
	l.visits[v.provider()+"."+v.patient()] = v
	l.mu.Unlock()
	return v
}

// say publishes event i of a visit and returns without waiting for the log.
func (l *load) say(v *visit, i int) error {
	v.sent[i] = time.Now()
	for {
		_, err := l.js.PublishMsgAsync(v.message(l.prefix, i))
		if !errors.Is(err, jetstream.ErrTooManyStalledMsgs) {
			return err
		}
	}
}

func (v *visit) await(ctx context.Context) error {
	select {
	case <-v.next:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("visit %d: no effect of event %d: %w", v.n, v.step.Load(), ctx.Err())
	}
}

// result is one measurement.
type result struct {
	events  int
	took    time.Duration
	p50     time.Duration
	p99     time.Duration
	program time.Duration // processor time of the pipeline under test
	servers time.Duration // of Redis and NATS
	mallocs float64
}

func (r result) rate() float64 { return float64(r.events) / r.took.Seconds() }

func (r result) perEvent(d time.Duration) float64 {
	return d.Seconds() * 1000 / float64(r.events)
}

func (l *load) measure(first int, o options, run func(context.Context, []*visit) error) (result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	l.mu.Lock()
	l.visits = map[string]*visit{}
	l.latencies = nil
	l.mu.Unlock()
	visits := make([]*visit, o.visits)
	for i := range visits {
		visits[i] = l.add(first + i)
	}
	start := time.Now()
	if err := run(ctx, visits); err != nil {
		return result{}, err
	}
	r := result{events: len(visits) * len(steps), took: time.Since(start)}
	l.mu.Lock()
	defer l.mu.Unlock()
	r.p50, r.p99 = percentiles(l.latencies)
	return r, nil
}

// closed keeps a number of visits under way; the next event of each is said when the effect of the last was seen.
func (l *load) closed(window int) func(context.Context, []*visit) error {
	return func(ctx context.Context, visits []*visit) error {
		var next atomic.Int64
		errs := make(chan error, window)
		for range window {
			go func() {
				for {
					i := int(next.Add(1)) - 1
					if i >= len(visits) {
						errs <- nil
						return
					}
					for s := range steps {
						if err := errors.Join(l.say(visits[i], s), visits[i].await(ctx)); err != nil {
							errs <- err
							return
						}
					}
				}
			}()
		}
		var err error
		for range window {
			err = errors.Join(err, <-errs)
		}
		return err
	}
}

// open says everything as fast as the log takes it.
func (l *load) open(ctx context.Context, visits []*visit) error {
	for s := range steps {
		for _, v := range visits {
			if err := l.say(v, s); err != nil {
				return err
			}
		}
	}
	for _, v := range visits {
		for range steps {
			if err := v.await(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// paced says events at a steady rate, visits interleaved.
func (l *load) paced(perSecond int) func(context.Context, []*visit) error {
	return func(ctx context.Context, visits []*visit) error {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		type turn struct {
			v *visit
			s int
		}
		ready := make(chan turn, len(visits)*len(steps))
		for i := range visits {
			ready <- turn{visits[i], 0}
		}
		left := len(visits) * len(steps)
		done := make(chan error, len(visits))
		for left > 0 {
			<-tick.C
			for range perSecond / 100 {
				select {
				case t := <-ready:
					left--
					if err := l.say(t.v, t.s); err != nil {
						return err
					}
					go func() {
						err := t.v.await(ctx)
						if err == nil && t.s+1 < len(steps) {
							ready <- turn{t.v, t.s + 1}
							return
						}
						done <- err
					}()
				case <-ctx.Done():
					return ctx.Err()
				default:
				}
			}
		}
		var err error
		for range visits {
			err = errors.Join(err, <-done)
		}
		return err
	}
}

func percentiles(ds []time.Duration) (p50, p99 time.Duration) {
	if len(ds) == 0 {
		return 0, 0
	}
	slices.Sort(ds)
	return ds[len(ds)/2], ds[len(ds)*99/100]
}
