package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"
)

// bench is one pipeline on its own servers.
type bench struct {
	name    string
	servers *servers
	program *process
	load    *load
	ops     string
	next    int // number of the next visit
}

func start(ctx context.Context, name string) (b *bench, err error) {
	b = &bench{name: name}
	if b.servers, err = startServers(ctx); err != nil {
		return nil, err
	}
	if name == "bare" {
		if b.program, err = spawn(ctx, "bare="+b.servers.nats.said+","+b.servers.redis.Addr()); err != nil {
			return nil, err
		}
		b.load, err = newLoad(b.servers.nats.said, barePrefix, "bare.out.>")
		return b, err
	}
	file, err := b.servers.config()
	if err != nil {
		return nil, err
	}
	if b.program, err = spawn(ctx, "consultd="+file); err != nil {
		return nil, err
	}
	b.ops = b.program.said
	if err := awaitReady(ctx, b.ops); err != nil {
		return nil, err
	}
	b.load, err = newLoad(b.servers.nats.said, consultdPrefix, "consult.out.consultation.>")
	return b, err
}

func (b *bench) stop() {
	b.load.close()
	b.program.stop()
	b.servers.stop()
}

func (b *bench) measure(o options, run func(context.Context, []*visit) error) (result, error) {
	pid := b.program.cmd.Process.Pid
	program, servers, mallocs := cpu(pid), b.servers.cpu(), b.mallocs()
	r, err := b.load.measure(b.next, o, run)
	b.next += o.visits
	if err != nil {
		return r, fmt.Errorf("%s: %w", b.name, err)
	}
	r.program, r.servers, r.mallocs = cpu(pid)-program, b.servers.cpu()-servers, b.mallocs()-mallocs
	return r, nil
}

// mallocs is how many allocations consultd has made, from its own metrics.
func (b *bench) mallocs() float64 {
	if b.ops == "" {
		return 0
	}
	resp, err := http.Get(b.ops + "/metrics") //nolint:gosec,noctx // our own child
	if err != nil {
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	s := bufio.NewScanner(resp.Body)
	for s.Scan() {
		if value, ok := strings.CutPrefix(s.Text(), "go_memstats_mallocs_total "); ok {
			n, _ := strconv.ParseFloat(value, 64)
			return n
		}
	}
	return 0
}

// profile writes ten seconds of consultd's CPU profile to a file.
func (b *bench) profile(file string) {
	resp, err := http.Get(b.ops + "/debug/pprof/profile?seconds=10") //nolint:noctx // our own child
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: profile:", err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	f, err := os.Create(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: profile:", err)
		return
	}
	_, err = io.Copy(f, resp.Body)
	if err := errors.Join(err, f.Close()); err != nil {
		fmt.Fprintln(os.Stderr, "bench: profile:", err)
	}
}

func run(ctx context.Context, o options) error {
	ours, err := start(ctx, "consultd")
	if err != nil {
		return err
	}
	defer ours.stop()
	bare, err := start(ctx, "bare")
	if err != nil {
		return err
	}
	defer bare.stop()
	fmt.Printf("consultd bench: %d visits x %d events a measurement; latency is from saying an event to seeing its effect\n", o.visits, len(steps))
	warm := o
	warm.visits = 200
	for _, b := range []*bench{ours, bare} {
		if _, err := b.measure(warm, b.load.closed(o.window)); err != nil {
			return err
		}
	}
	for _, m := range []struct {
		name, title string
		run         func(*load) func(context.Context, []*visit) error
	}{
		{"closed", fmt.Sprintf("closed, %d visits at a time", o.window), func(l *load) func(context.Context, []*visit) error { return l.closed(o.window) }},
		{"open", "open, all at once", func(l *load) func(context.Context, []*visit) error { return l.open }},
		{"paced", "paced, 500 events/s", func(l *load) func(context.Context, []*visit) error { return l.paced(500) }},
	} {
		if o.wants(m.name) {
			if err := compare(ours, bare, o, m.name, m.title, m.run); err != nil {
				return err
			}
		}
	}
	if o.wants("live") {
		if err := live(ctx, ours, o); err != nil {
			return err
		}
	}
	if o.wants("emergency") {
		return emergencies(ctx, ours, o)
	}
	return nil
}

// compare measures both pipelines in turn, several times, and prints medians and the median of the ratios.
func compare(ours, bare *bench, o options, name, title string, how func(*load) func(context.Context, []*visit) error) error {
	var a, b []result
	var ratios []float64
	rounds := o.rounds
	if name == "paced" {
		o.visits, rounds = min(o.visits, 1000), 1
	}
	if o.profile != "" {
		go ours.profile(o.profile)
	}
	for range rounds {
		ra, err := ours.measure(o, how(ours.load))
		if err != nil {
			return err
		}
		rb, err := bare.measure(o, how(bare.load))
		if err != nil {
			return err
		}
		a, b, ratios = append(a, ra), append(b, rb), append(ratios, ra.rate()/rb.rate())
	}
	fmt.Printf("\n%s\n%-10s %10s %9s %9s %14s %14s %12s\n", title, "", "events/s", "p50 ms", "p99 ms", "cpu ms/ev own", "cpu ms/ev srv", "allocs/ev")
	for _, side := range []struct {
		name string
		rs   []result
	}{{"consultd", a}, {"bare", b}} {
		m := median(side.rs)
		fmt.Printf("%-10s %10.0f %9.2f %9.2f %14.3f %14.3f %12.0f\n", side.name, m.rate(), ms(m.p50), ms(m.p99),
			m.perEvent(m.program), m.perEvent(m.servers), m.mallocs/float64(m.events))
	}
	slices.Sort(ratios)
	fmt.Printf("ratio consultd/bare: events/s %.2f (%s)\n", ratios[len(ratios)/2], list(ratios))
	return nil
}

func median(rs []result) result {
	slices.SortFunc(rs, func(a, b result) int { return int(a.took - b.took) })
	return rs[len(rs)/2]
}

func list(ratios []float64) string {
	var s []string
	for _, r := range ratios {
		s = append(s, strconv.FormatFloat(r, 'f', 2, 64))
	}
	return strings.Join(s, " ")
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// live measures the cost of an event, and the memory of a visit, with ever more visits waiting.
func live(ctx context.Context, b *bench, o options) error {
	fmt.Printf("\ncost with live visits (checked in and waiting)\n%10s %12s %12s %14s %14s %16s\n", "live", "events/s", "p99 ms", "cpu ms/ev own", "cpu ms/ev srv", "Redis bytes/visit")
	rdb := redis.NewClient(&redis.Options{Addr: b.servers.redis.Addr()})
	defer func() { _ = rdb.Close() }()
	base, err := memory(ctx, rdb)
	if err != nil {
		return err
	}
	have := 0
	for _, want := range []int{100, 10_000, 100_000} {
		if want > o.live {
			break
		}
		if err := b.load.fill(ctx, b.next, want-have); err != nil {
			return err
		}
		b.next += want - have
		have = want
		used, err := memory(ctx, rdb)
		if err != nil {
			return err
		}
		small := o
		small.visits = 1000
		r, err := b.measure(small, b.load.closed(o.window))
		if err != nil {
			return err
		}
		fmt.Printf("%10d %12.0f %12.2f %14.3f %14.3f %16.0f\n", have, r.rate(), ms(r.p99), r.perEvent(r.program), r.perEvent(r.servers), float64(used-base)/float64(have))
	}
	return nil
}

func memory(ctx context.Context, rdb *redis.Client) (int64, error) {
	info, err := rdb.Info(ctx, "memory").Result()
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(info, "\r\n") {
		if value, ok := strings.CutPrefix(line, "used_memory:"); ok {
			return strconv.ParseInt(value, 10, 64)
		}
	}
	return 0, errors.New("redis does not say how much memory it uses")
}

// fill brings visits into the waiting room and waits until they are there.
func (l *load) fill(ctx context.Context, first, n int) error {
	const chunk = 2000
	for n > 0 {
		size := min(n, chunk)
		visits := make([]*visit, size)
		for i := range visits {
			visits[i] = l.add(first + i)
			for s := range 3 {
				if err := l.say(visits[i], s); err != nil {
					return err
				}
			}
		}
		for _, v := range visits {
			for range 3 {
				if err := v.await(ctx); err != nil {
					return err
				}
			}
		}
		first, n = first+size, n-size
	}
	return nil
}

// emergencies measures from an emergency to its first page while a backlog of check-ins is worked off.
func emergencies(ctx context.Context, b *bench, o options) error {
	const backlog, raised = 10_000, 200
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	nc, err := nats.Connect(b.servers.nats.said)
	if err != nil {
		return err
	}
	defer nc.Close()
	pages := make(chan *nats.Msg, raised*4)
	if _, err := nc.ChanSubscribe("consult.out.page.sms.dr-call-1", pages); err != nil {
		return err
	}
	if err := nc.Flush(); err != nil {
		return err
	}
	visits := make([]*visit, backlog)
	for i := range visits {
		visits[i] = b.load.add(b.next + i)
	}
	b.next += backlog
	began := time.Now()
	for _, v := range visits {
		for s := range 2 {
			if err := b.load.say(v, s); err != nil {
				return err
			}
		}
	}
	drained := make(chan error, 1)
	go func() {
		for _, v := range visits {
			for range 2 {
				if err := v.await(ctx); err != nil {
					drained <- err
					return
				}
			}
		}
		drained <- nil
	}()
	var latencies []time.Duration
	working := true
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < raised && working; i++ {
		sent := time.Now()
		id := "em-" + strconv.Itoa(i)
		data, _ := json.Marshal(map[string]any{
			"id": id, "action": "EMERGENCY_ESCALATION", "escalatedBy": "scheduler", "severity": "life-threatening",
			"status": "active", "timestamp": sent.UTC().Format(time.RFC3339Nano),
		})
		if err := nc.PublishMsg(&nats.Msg{Subject: "consult.in.emergency.dep-0", Data: data, Header: nats.Header{"Consult-Actor": {"scheduler"}, "Consult-Role": {"backend"}}}); err != nil {
			return err
		}
		select {
		case m := <-pages:
			if !strings.Contains(string(m.Data), id) {
				fmt.Fprintln(os.Stderr, "bench: a page of another emergency came first")
			}
			latencies = append(latencies, time.Since(sent))
		case <-ctx.Done():
			return fmt.Errorf("emergency %d was never paged: %w", i, ctx.Err())
		}
		select {
		case err := <-drained:
			if err != nil {
				return err
			}
			working = false
			fmt.Printf("\nthe backlog of %d check-ins was worked off in %.1f s\n", backlog, time.Since(began).Seconds())
		case <-tick.C:
		}
	}
	p50, p99 := percentiles(latencies)
	fmt.Printf("emergencies during the backlog: %d, event to page p50 %.2f ms, p99 %.2f ms, worst %.2f ms\n", len(latencies), ms(p50), ms(p99), ms(latencies[len(latencies)-1]))
	if working {
		return <-drained
	}
	return nil
}
