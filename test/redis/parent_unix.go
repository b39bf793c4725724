//go:build unix && !linux

package redis

import "syscall"

// dieWithParent keeps Ctrl-C in a terminal away from the child. Here a child may outlive a killed parent.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
