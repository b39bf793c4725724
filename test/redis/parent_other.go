//go:build !unix

package redis

import "syscall"

// dieWithParent is the system's default: a child may outlive a killed parent.
func dieWithParent() *syscall.SysProcAttr { return nil }
