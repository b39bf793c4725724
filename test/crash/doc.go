// Package crash holds the tests that break things: the daemon killed at every labelled place, Redis losing writes or
// everything, stalled owners, cut connections, brokers that fail or lie. After each an observer that shares no code with the
// engine compares what the logs hold with what was decided, stored and said. The numbers P1 to P20 in names and
// messages are the promises that README and docs/ARCHITECTURE.md make. It contains no program code.
package crash
