//go:build crashpoints

// Package crash marks the places at which the crash tests kill the process.
package crash

import (
	"sync/atomic"
	"syscall"
)

// At names the place, and After says at which passage of it, the process kills itself.
var (
	At    string
	After int64

	passages atomic.Int64
)

// Point kills the process with SIGKILL if this is the place and the passage.
func Point(name string) {
	if name == At && passages.Add(1) == After {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
}
