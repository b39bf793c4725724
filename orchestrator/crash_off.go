//go:build !crashpoints

package orchestrator

// crashpoint marks a place at which the crash tests kill the process. In an ordinary build it is nothing.
func crashpoint(string) {}
