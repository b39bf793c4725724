package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"consultd/handlers"
	"consultd/handlers/nats"
	"consultd/handlers/pubnub"
	"consultd/orchestrator/crash"
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
	p.apps, p.ingests = map[states.Lane]*pubnub.Publisher{}, map[states.Lane]*pubnub.Ingest{}
	for lane, name := range lanes {
		if err := d.buildApps(ctx, p, lane, name); err != nil {
			return err
		}
	}
	return nil
}

// buildApps gives a lane its own way in and its own way out: a breaker and connections of its own, so that a refused
// check-in suspends no page, and a poll and a cursor of its own, so that an emergency does not wait in front of a normal
// log that takes nothing.
func (d *Daemon) buildApps(ctx context.Context, p *parts, lane states.Lane, name string) error {
	stats := &pubnub.Stats{}
	registerPubNub(d.registry, name, stats)
	var err error
	p.apps[lane], err = pubnub.NewPublisher(pubnub.PublisherOptions{
		Account: d.account(), Ring: p.ring, Clear: d.cfg.PubNub.ClearChannels, Stats: stats,
	})
	if err != nil {
		return err
	}
	emergency := lane == states.LaneEmergency
	channels := slices.DeleteFunc(slices.Clone(d.cfg.PubNub.Channels), func(c string) bool { return handlers.Emergencies(c) != emergency })
	cell, err := nats.NewCell(ctx, p.connections[lane].JS, map[bool]string{false: "pubnub", true: "pubnub-emergency"}[emergency])
	if err != nil {
		return err
	}
	log := d.log.With().Str("component", "pubnub").Str("lane", name).Logger()
	p.ingests[lane], err = pubnub.NewIngest(pubnub.IngestOptions{
		Account: d.account(), Owner: d.owner, Ring: p.ring, Channels: channels, Cell: cell, Stats: stats,
		Append: func(ctx context.Context, lane states.Lane, subject, msgID string, header map[string]string, data []byte) error {
			_, err := p.logs[lane].Append(ctx, subject, msgID, header, data)
			crash.Point("pubnub.appended")
			if err != nil && nats.Permanent(err) { // everything behind it would wait for ever
				channel, _ := handlers.InChannel(subject)
				timetoken, _ := strconv.ParseInt(header[handlers.HeaderTimetoken], 10, 64)
				return d.quarantine(ctx, p, pubnub.Unreadable{Channel: channel, Publisher: header[handlers.HeaderActor], Timetoken: timetoken, Reason: "the log refuses it for good"})
			}
			return err
		},
		Urgent: func(ctx context.Context, channel, publisher, timetoken string, plain []byte) error {
			return d.raise(ctx, p, channel, publisher, timetoken, plain)
		},
		Quarantine: func(ctx context.Context, u pubnub.Unreadable) error { return d.quarantine(ctx, p, u) },
		Known:      func(ctx context.Context) ([]string, error) { return spokenOn(ctx, p, lane) },
		Alert:      func(err error) { log.Error().Err(err).Msg("PubNub needs attention") },
		Log:        log,
	})
	return err
}

// raise puts an emergency that was asked for inside a visit straight into the emergency log. The visit's own lane raises
// it too; both derive the same ids, so the second one is a repeat of the first.
func (d *Daemon) raise(ctx context.Context, p *parts, channel, publisher, timetoken string, plain []byte) error {
	entry, err := p.codec.Raise(channel, publisher, timetoken, plain, func(ev states.Event) (string, string) { return d.visitOf(ctx, p, ev) })
	var refused *handlers.Refused
	if errors.As(err, &refused) { // for good: tried again, it would hold up everything behind it, emergencies included
		d.log.Warn().Str("code", refused.RefusalCode()).Msg("emergency inside a visit cannot take the short way; the visit's lane answers it")
		return nil
	}
	if err != nil {
		return err
	}
	_, err = p.logs[states.LaneEmergency].Append(ctx, entry.Subject, entry.Header[handlers.HeaderMsgID], entry.Header, entry.Data)
	return err
}

// quarantine refers to an element that cannot be read, among the dead letters.
func (d *Daemon) quarantine(ctx context.Context, p *parts, u pubnub.Unreadable) error {
	letter := p.codec.DeadLetter(states.Entry{
		Lane: states.LaneNormal, Subject: handlers.InSubject(u.Channel),
		Header: map[string]string{handlers.HeaderActor: u.Publisher, handlers.HeaderTimetoken: strconv.FormatInt(u.Timetoken, 10)},
	}, "QUARANTINED", u.Reason)
	letter.ID = fmt.Sprintf("quarantine.%s.%d", u.Channel, u.Timetoken) // it has no place in the log to be known by
	return nats.NewPublisher(p.connections[states.LaneNormal]).Publish(ctx, []states.Message{letter})
}

// spokenOn lists a lane's channels whose history may hold something after a gap: the waiting rooms or departments that its
// log has heard of, and the consultations under way (all that were ever heard, when the store does not say).
func spokenOn(ctx context.Context, p *parts, lane states.Lane) ([]string, error) {
	var channels []string
	filters := []string{handlers.InFilter(handlers.ClassEmergency)}
	if lane == states.LaneNormal {
		filters = []string{handlers.InFilter(handlers.ClassWaitingRoom)}
		visits, err := p.stores[lane].ActiveVisits(ctx)
		if err != nil {
			filters = append(filters, handlers.InFilter(handlers.ClassConsultation))
		}
		for _, v := range visits {
			channels = append(channels, handlers.Consultation(v.Provider, v.Patient))
		}
	}
	for _, filter := range filters {
		subjects, err := p.logs[lane].Subjects(ctx, filter)
		if err != nil {
			return nil, err
		}
		for _, s := range subjects {
			if channel, ok := handlers.InChannel(s); ok {
				channels = append(channels, channel)
			}
		}
	}
	return channels, nil
}

// visitOf finds the visit that an emergency was asked for in, as deciding about it will: the one that the message names,
// else the one that its channel means at present. For a visit that is not known the department is the message's or the
// default one. It gives "" only when no default is configured, which the codec refuses.
func (d *Daemon) visitOf(ctx context.Context, p *parts, ev states.Event) (appointment, department string) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	s := p.stores[states.LaneEmergency]
	holder, err := ev.Appointment, error(nil)
	if holder == "" {
		holder, err = s.Pair(ctx, ev.Provider, ev.Patient)
	}
	if err == nil && holder != "" {
		var records []states.Record
		records, err = s.Load(ctx, states.RecordID{Kind: states.KindVisit, ID: holder})
		if err == nil && records[0].Visit != nil {
			return records[0].Visit.Appointment, records[0].Visit.Department
		}
	}
	department = cmp.Or(ev.Department, d.cfg.Escalation.DefaultDepartment)
	d.log.Warn().AnErr("lookup", err).Str("department", department).Msg("the visit of an emergency was not found; another department is paged for it")
	return "", department
}
