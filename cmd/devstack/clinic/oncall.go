package clinic

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"consultd/handlers"
	"consultd/states"
)

// onCallHears lets somebody on call react to a page: most accept after a moment, some decline, some notice only the next one.
func (c *Clinic) onCallHears(p *person, n notice) {
	if n.Type != states.NoticeEscalation {
		if n.Type == states.NoticeEmergencyTaken || n.Type == states.NoticeEmergencyClosed {
			p.dismiss(n.Escalation) // somebody else was faster
		}
		return
	}
	h := fnv.New64a()
	_, _ = fmt.Fprint(h, p.id, n.Escalation, n.Round) // never fails
	chance := c.chance(h.Sum64())
	if n.Round <= 1 && chance.chance(35) {
		return
	}
	p.attendTo(n.Escalation, func(ctx context.Context) {
		if err := answer(ctx, p, n, chance); err != nil && ctx.Err() == nil {
			c.o.Complain(err.Error())
		}
	})
}

// answer is what somebody on call does about one escalation, to its end.
func answer(ctx context.Context, p *person, n notice, chance plan) error {
	say := func(action string, more message) error {
		m := message{"action": action, "escalationId": n.Escalation, "userId": p.id}
		for key, value := range more {
			m[key] = value
		}
		return p.say(ctx, handlers.Emergency(n.Department), m)
	}
	if !chance.between(1500*time.Millisecond, 4*time.Second).wait(ctx) {
		return nil
	}
	if n.Round <= 1 && chance.chance(20) {
		return say("EMERGENCY_REJECTED", message{"reasonCode": "in-surgery"})
	}
	for _, step := range []struct {
		action string
		more   message
	}{{"EMERGENCY_ACCEPTED", nil}, {"EMERGENCY_ATTENDED", nil}, {"EMERGENCY_RESOLVED", message{"outcomeCode": "stabilised"}}} {
		if err := say(step.action, step.more); err != nil {
			return err
		}
		if !chance.between(2*time.Second, 5*time.Second).wait(ctx) {
			return nil
		}
	}
	return nil
}
