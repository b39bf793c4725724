//go:build !linux

package clinic

import "syscall"

// dieWithParent has no counterpart here: a child survives a test that is killed.
func dieWithParent() *syscall.SysProcAttr { return nil }
