package daemon

import "runtime/debug"

// collectAt is the heap's growth, in percent, at which the garbage collector runs. What lives on the heap is small (tens of
// megabytes) and what is thrown away per event is much, so the default of 100 spends a fifth of the processor on marking
// the same few megabytes again and again.
const collectAt = 400

// relaxCollector lets the garbage collector run less often, unless GOGC says how often.
func relaxCollector() {
	if was := debug.SetGCPercent(collectAt); was != 100 {
		debug.SetGCPercent(was)
	}
}
