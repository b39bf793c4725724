package daemon

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"consultd/handlers/pubnub"
)

// registerPubNub shows the figures of a lane's PubNub adapter.
func registerPubNub(registry *prometheus.Registry, lane string, s *pubnub.Stats) {
	labels := prometheus.Labels{"lane": lane}
	counter := func(name, help string, value *atomic.Int64) {
		registry.MustRegister(prometheus.NewCounterFunc(
			prometheus.CounterOpts{Namespace: "consultd", Subsystem: "pubnub", Name: name, Help: help, ConstLabels: labels},
			func() float64 { return float64(value.Load()) }))
	}
	gauge := func(name, help string, value func() float64) {
		registry.MustRegister(prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Namespace: "consultd", Subsystem: "pubnub", Name: name, Help: help, ConstLabels: labels}, value))
	}
	gauge("polling", "1 while this replica is the one that polls.", func() float64 {
		if s.Owner.Load() {
			return 1
		}
		return 0
	})
	gauge("last_poll_age_seconds", "Time since a poll was last completed; 0 before the first.", func() float64 {
		if at := s.LastPoll.Load(); at > 0 {
			return time.Since(time.UnixMilli(at)).Seconds()
		}
		return 0
	})
	counter("polls_total", "Completed polls.", &s.Polls)
	counter("poll_retries_total", "Polls that failed and were repeated.", &s.Retries)
	counter("polls_denied_total", "Polls refused for lack of rights or as wrong.", &s.Denied)
	counter("takeovers_total", "Times this replica became the one that polls.", &s.Takeovers)
	counter("messages_logged_total", "Messages put into the log.", &s.Elements)
	counter("messages_missed_total", "Messages that only history still had.", &s.Missed)
	counter("repeats_total", "Messages met again and passed over.", &s.Repeats)
	counter("quarantined_total", "Elements that could not be read.", &s.Quarantined)
	counter("decrypt_failures_total", "Messages that no key opens.", &s.DecryptFailures)
	counter("catch_ups_total", "Completed readings of history.", &s.CatchUps)
	counter("catch_up_failures_total", "Readings of history that failed and are repeated.", &s.CatchUpFailures)
	counter("urgent_total", "Emergencies recognised inside consultations.", &s.Urgent)
	counter("published_total", "Messages that PubNub confirmed.", &s.Published)
	counter("publish_failures_total", "Attempts to publish that failed.", &s.PublishFailed)
	counter("publish_refused_total", "Messages that PubNub will never take.", &s.PublishNever)
}
