//go:build !crashpoints

// Package crash marks the places at which the crash tests kill the process. In an ordinary build a mark is nothing: the
// tests build with the tag crashpoints. It never does anything in a binary that serves patients.
package crash

// Point marks a place.
func Point(string) {}
