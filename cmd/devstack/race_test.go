//go:build race

package main_test

// buildFlags let the process be watched as closely as its test.
func buildFlags() []string { return []string{"-race"} }
