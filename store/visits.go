package store

import (
	"context"

	"consultd/states"
)

// ActiveVisits returns the visits that a consultation channel means at present: from check-in to their end.
func (s *Store) ActiveVisits(ctx context.Context) ([]states.Visit, error) {
	appointments, err := s.client.HVals(ctx, s.keys.pairs()).Result()
	if err != nil {
		return nil, unavailable("active visits", err)
	}
	ids := make([]states.RecordID, len(appointments))
	for i, appointment := range appointments {
		ids[i] = states.RecordID{Kind: states.KindVisit, ID: appointment}
	}
	records, err := s.Load(ctx, ids...)
	if err != nil {
		return nil, err
	}
	visits := make([]states.Visit, 0, len(records))
	for _, r := range records {
		if r.Visit != nil {
			visits = append(visits, *r.Visit)
		}
	}
	return visits, nil
}
