package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"consultd/config"
)

// daemonLog is the daemon's own log: all of it in a file, warnings and errors on the screen as well.
func daemonLog(cfg *config.Config, file *os.File, s *screen, phase *atomic.Int32) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(cfg.Log.Level)
	if err != nil {
		return zerolog.Nop(), fmt.Errorf("log level: %w", err)
	}
	return zerolog.New(complaints{file, s, phase}).Level(level).With().Timestamp().Logger(), nil
}

// complaints shows what deserves attention as one line for people.
type complaints struct {
	io.Writer
	screen *screen
	phase  *atomic.Int32
}

// phase is how far the stack is; what deserves attention depends on it.
type phase int32

const (
	starting phase = iota
	working
	stopping
)

// WriteLevel is called by zerolog with one whole entry.
func (c complaints) WriteLevel(level zerolog.Level, entry []byte) (int, error) {
	if level >= zerolog.WarnLevel && level < zerolog.NoLevel {
		c.show(level, entry)
	}
	return c.Write(entry)
}

func (c complaints) show(level zerolog.Level, entry []byte) {
	var fields map[string]any
	if err := json.Unmarshal(entry, &fields); err != nil {
		return
	}
	take := func(key string) string {
		value, there := fields[key]
		delete(fields, key)
		if !there {
			return ""
		}
		return fmt.Sprint(value)
	}
	message, cause := take(zerolog.MessageFieldName), take(zerolog.ErrorFieldName)
	component := take("component")
	switch phase(c.phase.Load()) {
	case starting: // that not everything answers yet is what starting means
		if component == "ops" {
			return
		}
	case stopping: // that not everything answers any more is what stopping means
		if level < zerolog.ErrorLevel {
			return
		}
	case working:
		if component == "engine" && fields["code"] != nil && fields["detail"] != nil {
			return // a dead letter, which the watcher shows in better words
		}
	}
	for _, known := range []string{zerolog.TimestampFieldName, zerolog.LevelFieldName, "replica"} {
		delete(fields, known)
	}
	if cause != "" {
		message += ": " + cause
	}
	rest := make([]string, 0, len(fields))
	for key, value := range fields {
		rest = append(rest, fmt.Sprintf("%s=%v", key, value))
	}
	slices.Sort(rest)
	look, name := yellow, "warning"
	if level >= zerolog.ErrorLevel {
		look, name = red, "error"
	}
	if component != "" {
		name += " " + component
	}
	text := strings.Join(append([]string{message}, rest...), "  ")
	c.screen.at(time.Now(), look, "%s: %s", name, strings.ReplaceAll(text, "\n", " "))
}
