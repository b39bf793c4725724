package orchestrator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"consultd/states"
)

// rulesRefresh is how old the last rules entry may be before the same rules are entered again, so that a log that
// forgets by age never forgets the rules in force: without any, no partition could be taken over. It is shorter than any
// sensible age of a log, and looked at every rulesLook, because a replica may run for longer than the log remembers.
const (
	rulesRefresh = 12 * time.Hour
	rulesLook    = 10 * time.Minute
)

// declareRules enters the configured rules into the lane's log, unless they are what it says last.
func (l *lane) declareRules(ctx context.Context) error {
	data, err := json.Marshal(l.engine.Rules)
	if err != nil {
		return fmt.Errorf("encode rules: %w", err)
	}
	subject := l.engine.Codec.RulesSubject(l.Lane)
	last, ok, err := l.Log.Last(ctx, subject)
	if err != nil {
		return fmt.Errorf("read the rules in force: %w", err)
	}
	if ok && bytes.Equal(last.Data, data) && time.Since(last.At) < rulesRefresh {
		return nil
	}
	seq, err := l.Log.Append(ctx, subject, "", nil, data)
	if err != nil {
		return fmt.Errorf("enter rules into the log: %w", err)
	}
	l.log.Info().Uint64("seq", seq).Msg("rules entered into the log")
	return nil
}

// rulesLoop keeps the rules in force in the log.
func (l *lane) rulesLoop(ctx context.Context) {
	tick := time.NewTicker(rulesLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := l.repeatRules(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn().Err(err).Msg("rules in force not entered again; the next look tries again")
		}
	}
}

// repeatRules enters the rules in force again when their entry has become old. They need not be this replica's: another
// one may have been configured anew.
func (l *lane) repeatRules(ctx context.Context) error {
	subject := l.engine.Codec.RulesSubject(l.Lane)
	last, ok, err := l.Log.Last(ctx, subject)
	switch {
	case err != nil:
		return fmt.Errorf("read the rules in force: %w", err)
	case !ok:
		return l.declareRules(ctx)
	case time.Since(last.At) < rulesRefresh:
		return nil
	}
	// One id for all replicas that look at the same time.
	if _, err := l.Log.Append(ctx, subject, fmt.Sprintf("rules.%d", last.Seq), nil, last.Data); err != nil {
		return fmt.Errorf("enter rules into the log: %w", err)
	}
	return nil
}

// rulesAt returns the rules that were in force at a position: the entry at seq, or the first of the log when there was
// none yet (or it has aged out), so that a replay decides under the same rules as the first time.
func (l *lane) rulesAt(ctx context.Context, seq uint64) (*states.Rules, uint64, error) {
	e, ok, err := l.Log.Next(ctx, l.engine.Codec.RulesSubject(l.Lane), max(seq, 1))
	if err != nil {
		return nil, 0, fmt.Errorf("read rules at %d: %w", seq, err)
	}
	if !ok {
		return nil, 0, fmt.Errorf("read rules at %d: the log holds none", seq)
	}
	r, err := parseRules(e)
	return r, e.Seq, err
}

func parseRules(e states.Entry) (*states.Rules, error) {
	var r states.Rules
	if err := json.Unmarshal(e.Data, &r); err != nil {
		return nil, fmt.Errorf("parse rules at %d: %w", e.Seq, err)
	}
	return &r, nil
}
