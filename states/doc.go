// Package states decides what may happen to a visit and to an escalation: records, events, the transition tables, the
// one decision function, and the values in which a decision is expressed (effects, timers, places, audit entries).
//
// It never reads a clock, a store or a socket, keeps no state between calls, and imports nothing but the standard
// library and looplab/fsm: the same record, event and rules give the same decision on every machine and in every replay.
package states
