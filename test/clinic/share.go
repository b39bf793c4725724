package clinic

import "testing"

// For is the same clinic in the hands of another test, so that stories which share its servers fail on their own: what is
// started, said or awaited through it belongs to that test.
func (c *Clinic) For(tb testing.TB) *Clinic {
	shared := *c
	shared.tb = tb
	return &shared
}
