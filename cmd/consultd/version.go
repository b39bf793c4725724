package main

import (
	"runtime/debug"

	"github.com/spf13/cobra"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Say which version this is, and what it was built from",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			v, revision := build()
			cmd.Printf("consultd %s (%s)\n", v, revision)
			if info, ok := debug.ReadBuildInfo(); ok {
				cmd.Println(info.GoVersion)
			}
		},
	}
}

// build is the version and the commit, as far as the binary knows them.
func build() (v, revision string) {
	v, revision = version, "unknown revision"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v, revision
	}
	if v == "" {
		v = info.Main.Version
	}
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = ", with changes"
		}
	}
	return v, revision + dirty
}
