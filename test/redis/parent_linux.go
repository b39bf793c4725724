package redis

import "syscall"

// dieWithParent lets the kernel end the child when the thread that started it ends. The child has a process group of its
// own, because Ctrl-C in a terminal goes to the whole group: whoever uses the server stops it when they no longer need it.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
