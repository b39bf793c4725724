package orchestrator

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"consultd/states"
)

// Metrics are the engine's own figures. Labels are codes of the program, never identifiers of people or visits.
type Metrics struct {
	events, commits, deadLetters, conflicts, storeErrors, panics, leaseLost *prometheus.CounterVec
	delivered, publishErrors, pagesSpared                                   *prometheus.CounterVec
	backlog, owned                                                          *prometheus.GaugeVec
	commitSeconds, eventSeconds, timerLateness                              *prometheus.HistogramVec
}

// NewMetrics registers the engine's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Namespace: "consultd", Name: name, Help: help}, append([]string{"lane"}, labels...))
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return f.NewGaugeVec(prometheus.GaugeOpts{Namespace: "consultd", Name: name, Help: help}, append([]string{"lane"}, labels...))
	}
	seconds := func(name, help string) *prometheus.HistogramVec {
		return f.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "consultd", Name: name, Help: help,
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60},
		}, []string{"lane"})
	}
	return &Metrics{
		events:        counter("events_decided_total", "Events decided, by kind and outcome (accepted, or the refusal's code).", "kind", "outcome"),
		commits:       counter("commits_total", "Commits by what the store answered.", "outcome"),
		deadLetters:   counter("dead_letters_total", "Entries and messages that can never be processed, by reason.", "code"),
		conflicts:     counter("version_conflicts_total", "Decisions taken again because the record had changed."),
		storeErrors:   counter("store_errors_total", "Operations that the store did not answer."),
		panics:        counter("decision_panics_total", "Entries whose decision panicked."),
		leaseLost:     counter("leases_lost_total", "Partitions given up because their lease was gone."),
		delivered:     counter("messages_delivered_total", "Messages that a sink has accepted.", "sink"),
		publishErrors: counter("publish_errors_total", "Attempts that a sink did not accept.", "sink"),
		pagesSpared:   counter("pages_spared_total", "Pages not sent because the escalation had been answered meanwhile."),
		backlog:       gauge("outbox_backlog", "Commits whose messages a sink has not accepted yet.", "sink"),
		owned:         gauge("partitions_owned", "Partitions that this replica owns."),
		commitSeconds: seconds("commit_seconds", "Time from the decision to the store's answer."),
		eventSeconds:  seconds("event_seconds", "Time from an entry's arrival in the log to its commit."),
		timerLateness: seconds("timer_lateness_seconds", "How late a due timer was entered into the log."),
	}
}

// laneMetrics are the metrics with the lane filled in.
type laneMetrics struct {
	events, commits, deadLetters, delivered, publishErrors *prometheus.CounterVec
	backlog                                                *prometheus.GaugeVec
	conflicts, storeErrors, panics, leaseLost, pagesSpared prometheus.Counter
	owned                                                  prometheus.Gauge
	commitSeconds, eventSeconds, timerLateness             prometheus.Observer
}

func (m *Metrics) lane(lane states.Lane) *laneMetrics {
	name := map[states.Lane]string{states.LaneNormal: "normal", states.LaneEmergency: "emergency"}[lane]
	by := prometheus.Labels{"lane": name}
	return &laneMetrics{
		events: m.events.MustCurryWith(by), commits: m.commits.MustCurryWith(by), deadLetters: m.deadLetters.MustCurryWith(by),
		delivered: m.delivered.MustCurryWith(by), publishErrors: m.publishErrors.MustCurryWith(by), backlog: m.backlog.MustCurryWith(by),
		conflicts: m.conflicts.With(by), storeErrors: m.storeErrors.With(by), panics: m.panics.With(by),
		leaseLost: m.leaseLost.With(by), pagesSpared: m.pagesSpared.With(by), owned: m.owned.With(by),
		commitSeconds: m.commitSeconds.With(by), eventSeconds: m.eventSeconds.With(by), timerLateness: m.timerLateness.With(by),
	}
}

func (m *laneMetrics) decided(ev states.Event, d *states.Decision, took time.Duration) {
	outcome := "accepted"
	if d.Refusal != nil {
		outcome = string(d.Refusal.Code)
	}
	m.events.WithLabelValues(string(ev.Kind), outcome).Inc()
	m.eventSeconds.Observe(took.Seconds())
}
