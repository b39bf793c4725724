package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"consultd/states"
)

// envelope is a record as it is sealed. The id is in the key, the version beside it, and both in the aad.
type envelope struct {
	Format     int                `json:"f"`
	Chain      states.Chain       `json:"c"`
	Visit      *states.Visit      `json:"v,omitempty"`
	Escalation *states.Escalation `json:"e,omitempty"`
	Reason     string             `json:"r,omitempty"` // Escalation.Reason, which no encoder writes by itself
}

const recordFormat = 1

func (s *Store) sealRecord(r states.Record) ([]byte, error) {
	e := envelope{Format: recordFormat, Chain: r.Chain, Visit: r.Visit, Escalation: r.Escalation}
	if r.Escalation != nil {
		e.Reason = r.Escalation.Reason.Reveal()
	}
	plain, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode %s record: %w", r.ID.Kind, err)
	}
	sealed, err := s.sealer.Seal(plain, s.recordPlace(r.ID, r.Version))
	if err != nil {
		return nil, fmt.Errorf("seal %s record: %w", r.ID.Kind, err)
	}
	return sealed, nil
}

func (s *Store) openRecord(id states.RecordID, version int64, sealed []byte) (states.Record, error) {
	kind := string(id.Kind) + " record"
	plain, err := s.sealer.Open(sealed, s.recordPlace(id, version))
	if err != nil {
		return states.Record{}, &Corrupt{kind, whyUnsealed}
	}
	var e envelope
	if err := json.Unmarshal(plain, &e); err != nil {
		return states.Record{}, &Corrupt{kind, "it opens but is not a record"} // the cause may quote the content
	}
	if e.Format != recordFormat {
		return states.Record{}, &Corrupt{kind, fmt.Sprintf("format %d; this release reads format %d", e.Format, recordFormat)}
	}
	if e.Escalation != nil && e.Reason != "" {
		e.Escalation.Reason = states.NewPHI(e.Reason)
	}
	return states.Record{ID: id, Version: version, Chain: e.Chain, Visit: e.Visit, Escalation: e.Escalation}, nil
}

func (s *Store) recordPlace(id states.RecordID, version int64) []byte {
	return place(s.keys.record(id), strconv.AppendInt(nil, version, 10))
}

// Load reads records, in the order of the ids. One that does not exist has Version 0 and nothing but its id. The error
// is Corrupt when a record is stored but cannot be read, Unavailable when Redis does not answer.
func (s *Store) Load(ctx context.Context, ids ...states.RecordID) ([]states.Record, error) {
	pipe := s.client.Pipeline()
	answers := make([]*redis.SliceCmd, len(ids))
	for i, id := range ids {
		answers[i] = pipe.HMGet(ctx, s.keys.record(id), "v", "r")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, unavailable("load records", err)
	}
	records := make([]states.Record, len(ids))
	for i, id := range ids {
		var err error
		if records[i], err = s.readRecord(id, answers[i].Val()); err != nil {
			return nil, fmt.Errorf("load records: %w", err)
		}
	}
	return records, nil
}

func (s *Store) readRecord(id states.RecordID, fields []any) (states.Record, error) {
	v, hasVersion := fields[0].(string)
	r, hasRecord := fields[1].(string)
	if !hasVersion && !hasRecord {
		return states.Record{ID: id}, nil
	}
	version, err := strconv.ParseInt(v, 10, 64)
	if err != nil || version < 1 || !hasRecord {
		return states.Record{}, &Corrupt{string(id.Kind) + " record", "its fields are incomplete"}
	}
	return s.openRecord(id, version, []byte(r))
}

// Pair returns the appointment that the channel of a provider and a patient means now, "" when there is none.
func (s *Store) Pair(ctx context.Context, provider, patient string) (string, error) {
	appointment, err := s.client.HGet(ctx, s.keys.pairs(), pairField(provider, patient)).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", unavailable("look up pair", err)
	}
	return appointment, nil
}
