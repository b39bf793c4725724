package scenario_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"consultd/test/clinic"
	"consultd/test/pubnub"
	"consultd/test/redis"
)

// readiness is what /readyz answers.
type readiness struct {
	Ready    bool
	Draining bool
	Checks   []struct {
		Name string
		OK   bool
	}
}

// failing are the dependencies that do not answer.
func (r readiness) failing() []string {
	var names []string
	for _, c := range r.Checks {
		if !c.OK {
			names = append(names, c.Name)
		}
	}
	return names
}

func readyz(ops string) (status int, r readiness) {
	resp, err := http.Get(ops + "/readyz") //nolint:gosec,noctx // the test's own daemon
	if err != nil {
		return 0, r
	}
	defer func() { _ = resp.Body.Close() }()
	_ = json.NewDecoder(resp.Body).Decode(&r)
	return resp.StatusCode, r
}

// isReady waits until the daemon says that it is ready.
func (h *house) isReady(d *clinic.Daemon) {
	h.t.Helper()
	eventually(h.t, "readiness", func() (bool, string) {
		status, r := readyz(d.OpsURL)
		return status == http.StatusOK && r.Ready, fmt.Sprintf("%d %+v", status, r)
	})
}

// isNotReady waits until the daemon says that it is not ready and names the dependency. It is alive all the same.
func (h *house) isNotReady(d *clinic.Daemon, dependency string) {
	h.t.Helper()
	eventually(h.t, "trouble with "+dependency, func() (bool, string) {
		status, r := readyz(d.OpsURL)
		return status == http.StatusServiceUnavailable && !r.Ready && strings.Contains(fmt.Sprint(r.failing()), dependency), fmt.Sprintf("%d %+v", status, r)
	})
	if text, ok := get(d.OpsURL + "/healthz"); !ok || strings.TrimSpace(text) != "ok" {
		h.t.Errorf("/healthz says %q", text)
	}
}

// While Redis is away the log takes every check-in; when it is back they are decided, in order and once.
func TestRedisIsAwayForAWhile(t *testing.T) {
	t.Parallel()
	b := build{manual: true}
	b.Redis = redis.Options{AppendOnly: true, AppendFsync: "always"}
	h := open(t, b)
	d := h.run()
	h.listen()
	h.isReady(d)
	before, over, calling := h.story(t), h.story(t), h.story(t)
	before.waits()

	h.clinic.Redis.Kill()
	h.isNotReady(d, "redis")
	over.walksIn(over.asPatient()) // accepted: the log has it
	over.walksIn(over.asPatient(), M{"id": "twice"})
	over.walksIn(over.asPatient(), M{"id": "twice"})
	over.atDesk(over.app(over.patient), "PATIENT_LEFT")
	calling.raises(calling.app(calling.patient), M{"escalatedBy": calling.patient, "reason": freeText})
	before.providerSays(before.asProvider(), "PROVIDER_JOINED")
	if said := h.ear.on("notification." + over.provider); len(said) != 0 {
		t.Errorf("said without a commit: %v", said)
	}

	if err := h.clinic.Redis.Restart(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	h.isReady(d)
	over.queued("PATIENT_ADDED")
	over.told(over.provider, "PATIENT_READY")
	over.went("waiting")
	over.refused(over.patient, "PATIENT_CHECKED_IN", "ALREADY_CHECKED_IN") // the second one, whose repeat is no third
	over.queued("PATIENT_REMOVED", M{"reason": "left-without-being-seen"})
	over.told(over.provider, "SCHEDULE_CHANGE")
	over.went("left-without-being-seen")
	over.decided("PATIENT_CHECKED_IN", 2)
	over.nothingMore()
	before.queued("STATUS_UPDATED")
	before.told(before.patient, "PROVIDER_READY")
	before.went("connecting")
	before.nothingMore()
	calling.begins()
	calling.closes(calling.onCall[:]...)
	h.judge()
}

// While NATS is away the apps go on publishing; when it is back they are heard.
func TestNATSIsAwayForAWhile(t *testing.T) {
	t.Parallel()
	h := open(t, build{manual: true, allow: []string{
		"PubNub needs attention", "audit notary stopped; starting again", "NATS reported an error", "log reader stopped; starting again",
	}})
	d := h.run()
	h.listen()
	h.isReady(d)
	before, over, calling := h.story(t), h.story(t), h.story(t)
	before.waits()
	patient, caller := over.app(over.patient), calling.app(calling.patient)

	h.clinic.NATS.Stop()
	h.isNotReady(d, "nats")
	over.walksIn(patient)
	over.atDesk(patient, "PATIENT_LEFT")
	calling.raises(caller, M{"escalatedBy": calling.patient})

	if err := h.clinic.NATS.Start(); err != nil {
		t.Fatal(err)
	}
	h.isReady(d)
	calling.begins()
	over.queued("PATIENT_ADDED")
	over.told(over.provider, "PATIENT_READY")
	over.went("waiting")
	over.queued("PATIENT_REMOVED")
	over.told(over.provider, "SCHEDULE_CHANGE")
	over.went("left-without-being-seen")
	over.nothingMore()
	before.providerSays(before.asProvider(), "PROVIDER_JOINED")
	before.queued("STATUS_UPDATED")
	before.told(before.patient, "PROVIDER_READY")
	before.went("connecting")
	before.nothingMore()
	calling.closes(calling.onCall[:]...)
	h.judge()
}

// PubNub answers nonsense for a while, then not at all. Whoever listens on NATS hears everything at once; the apps hear it
// when PubNub is back, in order.
func TestPubNubIsAwayForAWhile(t *testing.T) {
	t.Parallel()
	h := open(t, build{manual: true, allow: []string{"PubNub needs attention"}})
	d := h.run()
	h.listen()
	s := h.story(t)
	for _, fault := range []pubnub.Fault{
		{Match: "publish", Kind: pubnub.FaultStatus, UUID: "consultd", Times: 2},
		{Match: "publish", Kind: pubnub.FaultHTML, UUID: "consultd", Times: 2},
		{Match: "publish", Kind: pubnub.FaultReset, UUID: "consultd", Times: 2},
		{Match: "subscribe", Kind: pubnub.FaultStatus, UUID: "consultd", Times: 2},
		{Match: "subscribe", Kind: pubnub.FaultHTML, UUID: "consultd", Times: 1},
	} {
		if err := h.clinic.PubNub.Inject(fault); err != nil {
			t.Fatal(err)
		}
	}
	s.meets()
	h.clinic.PubNub.Pause()
	s.ends()
	s.went("wrapping-up")
	s.providerSays(s.asProvider(), "NOTES_COMPLETED")
	s.queued("PATIENT_REMOVED")
	s.went("completed")
	s.nothingMore()
	if err := h.clinic.PubNub.Resume(); err != nil {
		t.Fatal(err)
	}
	h.isReady(d)
	s.nextAppointment()
	s.walksIn(s.app(s.patient))
	s.queued("PATIENT_ADDED")
	s.told(s.provider, "PATIENT_READY")
	s.went("waiting")
	s.nothingMore()
	h.judge()
}

// Asked to stop, consultd first says that it is not ready, then finishes what it can, then goes. What it could not finish the
// next one does.
func TestStopping(t *testing.T) {
	t.Parallel()
	h := open(t, build{manual: true, allow: []string{"PubNub needs attention"}})
	d := h.run()
	h.listen()
	s := h.story(t)
	s.waits()
	h.clinic.PubNub.Pause() // so that there is something that cannot be finished
	s.providerSays(s.asProvider(), "PROVIDER_JOINED")
	s.queued("STATUS_UPDATED")
	s.told(s.patient, "PROVIDER_READY")
	s.went("connecting")

	stopped := make(chan error, 1)
	go func() { stopped <- d.Stop() }()
	eventually(t, "being unready while stopping", func() (bool, string) {
		status, r := readyz(d.OpsURL)
		return status == http.StatusServiceUnavailable && r.Draining, fmt.Sprintf("%d %+v", status, r)
	})
	if text, ok := get(d.OpsURL + "/healthz"); !ok || strings.TrimSpace(text) != "ok" {
		t.Errorf("/healthz says %q while stopping", text)
	}
	select {
	case err := <-stopped:
		if err != nil {
			t.Errorf("consultd ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("consultd did not stop")
	}
	if status, _ := readyz(d.OpsURL); status != 0 {
		t.Error("the ops port is open after the end")
	}
	s.patientSays(s.asPatient(), "PATIENT_JOINED") // to nobody, for now
	if err := h.clinic.PubNub.Resume(); err != nil {
		t.Fatal(err)
	}
	h.run()
	s.went("in-progress")
	s.nothingMore()
	h.judge() // both brokers say the same, so the next one has finished what was left
}

// Two replicas share the work; nothing is said twice, also when one of them goes and comes back.
func TestReplicas(t *testing.T) {
	t.Parallel()
	h := open(t, build{manual: true})
	first := h.run()
	h.listen()
	second := h.run()
	shared := func() {
		t.Helper()
		eventually(t, "two replicas that share the partitions", func() (bool, string) {
			a, b := owned(first.OpsURL), owned(second.OpsURL)
			return a+b == h.clinic.Config.Partitions.Normal && a > 0 && b > 0, fmt.Sprint(a, " and ", b)
		})
	}
	shared()
	// Everything that the stories do below happens while partitions move.
	visits := func(stories []*story) {
		t.Helper()
		for _, s := range stories {
			s.walksIn(s.asPatient(), M{"id": "check-in"})
			s.walksIn(s.asPatient(), M{"id": "check-in"})
			s.providerSays(s.asProvider(), "PROVIDER_JOINED")
			s.patientSays(s.asPatient(), "PATIENT_JOINED")
		}
	}
	heard := func(stories []*story) {
		t.Helper()
		for _, s := range stories {
			s.queued("PATIENT_ADDED")
			s.told(s.provider, "PATIENT_READY")
			s.went("waiting")
			s.queued("STATUS_UPDATED")
			s.told(s.patient, "PROVIDER_READY")
			s.went("connecting")
			s.went("in-progress")
			s.nothingMore()
		}
	}
	several := func(n int) (list []*story) {
		for range n {
			list = append(list, h.story(t))
		}
		return list
	}
	together, alone, again := several(10), several(8), several(10)
	visits(together)
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	visits(alone)
	heard(together)
	heard(alone)
	first = h.run()
	visits(again)
	shared()
	emergency := h.story(t)
	emergency.raises(emergency.app(emergency.patient), M{"escalatedBy": emergency.patient})
	emergency.begins()
	emergency.closes(emergency.onCall[:]...)
	heard(again)
	h.judge()
}

// owned is how many partitions of the normal lane a replica says it owns.
func owned(ops string) (n int) {
	text, _ := get(ops + "/metrics")
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, `consultd_partitions_owned{lane="normal"} `); ok {
			_, _ = fmt.Sscan(rest, &n)
		}
	}
	return n
}
