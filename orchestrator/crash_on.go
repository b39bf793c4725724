//go:build crashpoints

package orchestrator

import (
	"sync/atomic"
	"syscall"
)

// CrashAt names the place, and after how many passages, at which the process kills itself. Builds with the tag
// crashpoints exist for the crash tests only.
var (
	CrashAt    string
	CrashAfter int64
	passages   atomic.Int64
)

func crashpoint(name string) {
	if name == CrashAt && passages.Add(1) == CrashAfter {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
}
