//go:build crashpoints

package daemon

import (
	"consultd/config"
	"consultd/orchestrator/crash"
)

func init() { crash.At, crash.After = config.CrashPoint() }
