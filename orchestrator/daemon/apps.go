package daemon

import (
	"context"
	"errors"
	"time"

	"consultd/handlers"
	"consultd/handlers/nats"
	"consultd/handlers/pubnub"
	"consultd/states"
)

// lookupLimit bounds the search for an emergency's department; after it the configured default is used.
const lookupLimit = 250 * time.Millisecond

func (d *Daemon) account() pubnub.Account {
	c := d.cfg.PubNub
	scheme := "https://"
	if !c.Secure {
		scheme = "http://"
	}
	a := pubnub.Account{
		Endpoint: scheme + c.Origin, PublishKey: c.PublishKey, SubscribeKey: c.SubscribeKey,
		SecretKey: c.SecretKey.Reveal(), User: c.UserID,
	}
	if !c.Token.Empty() {
		a.Token = c.Token.Reveal
	}
	return a
}

func (d *Daemon) buildPubNub(ctx context.Context, p *parts) error {
	if !d.cfg.PubNub.Enabled {
		return nil
	}
	stats := &pubnub.Stats{}
	d.registry.MustRegister(pubnubCollector(stats))
	apps, err := pubnub.NewPublisher(pubnub.PublisherOptions{
		Account: d.account(), Ring: p.ring, Clear: d.cfg.PubNub.ClearChannels, Stats: stats,
	})
	if err != nil {
		return err
	}
	p.apps = apps
	cell, err := nats.NewCell(ctx, p.connections[states.LaneNormal].JS, "pubnub")
	if err != nil {
		return err
	}
	p.ingest, err = pubnub.NewIngest(pubnub.IngestOptions{
		Account: d.account(), Owner: d.owner, Ring: p.ring, Channels: d.cfg.PubNub.Channels, Cell: cell, Stats: stats,
		Append: func(ctx context.Context, lane states.Lane, subject, msgID string, header map[string]string, data []byte) error {
			_, err := p.logs[lane].Append(ctx, subject, msgID, header, data)
			return err
		},
		Urgent: func(ctx context.Context, channel, publisher, timetoken string, plain []byte) error {
			return d.raise(ctx, p, channel, publisher, timetoken, plain)
		},
		Log: d.log.With().Str("component", "pubnub").Logger(),
	})
	return err
}

// raise puts an emergency that was asked for inside a visit straight into the emergency log. The visit's own lane raises
// it too; both derive the same ids, so the second one is a repeat of the first.
func (d *Daemon) raise(ctx context.Context, p *parts, channel, publisher, timetoken string, plain []byte) error {
	department := d.department(ctx, p, channel)
	if department == "" {
		return errors.New("no department for the emergency, and no default one is configured")
	}
	entry, err := p.codec.Raise(channel, publisher, timetoken, plain, department)
	if err != nil {
		return err
	}
	_, err = p.logs[states.LaneEmergency].Append(ctx, entry.Subject, entry.Header[nats.HeaderID], entry.Header, entry.Data)
	return err
}

func (d *Daemon) department(ctx context.Context, p *parts, channel string) string {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	s := p.stores[states.LaneEmergency]
	c, err := handlers.ParseChannel(channel)
	if err != nil {
		return d.cfg.Escalation.DefaultDepartment
	}
	holder, err := s.Pair(ctx, c.Provider, c.Patient)
	if err == nil && holder != "" {
		records, err := s.Load(ctx, states.RecordID{Kind: states.KindVisit, ID: holder})
		if err == nil && records[0].Visit != nil {
			return records[0].Visit.Department
		}
	}
	d.log.Warn().AnErr("lookup", err).Msg("department of an emergency not found; the default department is paged")
	return d.cfg.Escalation.DefaultDepartment
}
