//go:build crashpoints

package config

import (
	"os"
	"strconv"
	"strings"
)

// CrashPoint is where a build for the crash tests kills itself: CONSULTD_CRASH_AT=place:passage.
func CrashPoint() (place string, passage int64) {
	place, n, _ := strings.Cut(os.Getenv("CONSULTD_CRASH_AT"), ":")
	passage, _ = strconv.ParseInt(n, 10, 64)
	return place, max(passage, 1)
}
