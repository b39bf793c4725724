package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing that is wrong, or merely unwise, with a configuration. It never holds a secret.
type Problem struct {
	Warning bool   // allowed, but unwise
	Path    string // such as timing.connect_soft; empty when the file as a whole is meant
	Line    int    // in the file, from 1; 0 when the value is a default or comes from elsewhere
	Column  int    // in bytes, from 1
	Env     string // the environment variable that set the value
	Message string // what is wrong
	Hint    string // what to do
}

// String is one line: place, what is wrong, what to do.
func (p Problem) String() string {
	var b strings.Builder
	switch {
	case p.Env != "":
		fmt.Fprintf(&b, "%s: ", p.Env)
	case p.Line > 0:
		fmt.Fprintf(&b, "%d:%d: ", p.Line, p.Column)
	}
	if p.Warning {
		b.WriteString("warning: ")
	}
	if p.Path != "" {
		fmt.Fprintf(&b, "%s: ", p.Path)
	}
	b.WriteString(p.Message)
	if p.Hint != "" {
		fmt.Fprintf(&b, "; %s", p.Hint)
	}
	return b.String()
}

// Error is every problem of a configuration that cannot be used.
type Error struct {
	File     string
	Problems []Problem
}

// Error lists the problems, one a line, each with its place in the file.
func (e *Error) Error() string {
	lines := make([]string, 0, len(e.Problems)+1)
	lines = append(lines, fmt.Sprintf("configuration %s cannot be used (consultd check-config says the same)", e.File))
	for _, p := range e.Problems {
		lines = append(lines, "  "+p.String())
	}
	return strings.Join(lines, "\n")
}

// Refused says whether any of the problems is more than a warning.
func Refused(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return !p.Warning })
}

// place is where a value came from.
type place struct {
	line, column int
	env          string
}

// report collects problems and knows where the values came from.
type report struct {
	problems []Problem
	places   map[string]place
	unread   map[string]bool // values that could not even be read: what checks say about them would be noise
}

func (r *report) fail(path, message, hint string) { r.add(false, path, message, hint) }

func (r *report) warn(path, message, hint string) { r.add(true, path, message, hint) }

func (r *report) add(warning bool, path, message, hint string) {
	if r.unread[path] {
		return
	}
	at := r.place(path)
	r.problems = append(r.problems, Problem{
		Warning: warning, Path: path, Line: at.line, Column: at.column, Env: at.env, Message: message, Hint: hint,
	})
}

// place is that of the value, or else of the nearest section around it.
func (r *report) place(path string) place {
	for {
		if at, ok := r.places[path]; ok {
			return at
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return place{}
		}
		path = path[:cut]
	}
}

// sorted orders the problems as a reader goes through the file; those without a line come last.
func (r *report) sorted() []Problem {
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		if (a.Line == 0) != (b.Line == 0) {
			return b.Line - a.Line
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return cmp.Or(a.Column-b.Column, cmp.Compare(a.Path, b.Path))
	})
	return r.problems
}
