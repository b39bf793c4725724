// Package orchestrator turns a log of inputs into committed decisions and delivered effects: it reads each partition of
// each lane in log order, decides every entry once, commits the decision, relays what follows from it, and puts due
// timers back into the log. It knows neither Redis nor NATS nor PubNub, and takes no decision of its own about a visit.
package orchestrator
