package clinic

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	sdk "github.com/pubnub/go/v7"
	"github.com/pubnub/go/v7/crypto"

	"consultd/handlers"
)

// message is what somebody says, but for the fields that all messages have.
type message map[string]any

// encode completes the message.
func (m message) encode() (data []byte, id string, err error) {
	id = ulid.Make().String()
	m["id"] = id
	m["timestamp"] = time.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00")
	data, err = json.Marshal(m)
	return data, id, err
}

// notice is what the people here read of a notification.
type notice struct {
	Type        string `json:"type"`
	Appointment string `json:"appointmentId"`
	Escalation  string `json:"escalationId"`
	Department  string `json:"departmentId"`
	Round       int    `json:"round"`
}

// person is somebody with the clinic's app: a PubNub client with a user id of its own, listening to its notifications.
type person struct {
	id       string
	client   *sdk.PubNub
	hear     func(*person, notice)
	complain func(string)
	listener *sdk.Listener
	life     context.Context // until the person goes offline
	end      context.CancelFunc
	busy     sync.WaitGroup
	once     sync.Once

	mu    sync.Mutex
	calls map[string]context.CancelFunc // by escalation: pages being answered
}

const (
	onlinePatience = 10 * time.Second
	publishTimeout = 5 // seconds
	retryPause     = 300 * time.Millisecond
	longestPause   = 3 * time.Second
	complainAfter  = 6 // attempts
	resumePause    = time.Second
)

func newPerson(id string, o Options, module crypto.CryptoModule, hear func(*person, notice)) *person {
	config := sdk.NewConfigWithUserId(sdk.UserId(id))
	config.Origin, config.Secure = o.Origin, false
	config.PublishKey, config.SubscribeKey = o.PublishKey, o.SubscribeKey
	config.CryptoModule = module
	config.SuppressLeaveEvents = true // nobody waits for the goodbye
	config.MaxWorkers = 0             // the SDK's own queue would outlive the client
	config.NonSubscribeRequestTimeout = publishTimeout
	p := &person{
		id: id, client: sdk.NewPubNub(config), hear: hear, complain: o.Complain,
		listener: sdk.NewListener(), calls: map[string]context.CancelFunc{},
	}
	p.life, p.end = context.WithCancel(context.Background())
	return p
}

// listen returns when notifications arrive from now on.
func (p *person) listen(ctx context.Context) error {
	online := make(chan struct{})
	p.busy.Go(func() { p.receive(online) })
	p.client.AddListener(p.listener)
	p.client.Subscribe().Channels(p.channels()).Execute()
	ctx, cancel := context.WithTimeout(ctx, onlinePatience)
	defer cancel()
	select {
	case <-online:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s did not get online: %w", p.id, ctx.Err())
	}
}

func (p *person) channels() []string { return []string{handlers.Notification(p.id)} }

// receive reads whatever the SDK has, because it waits for its listeners. The SDK stops listening for good after most
// failures of the network, so that an app has to begin again by itself, from the last message that it has seen.
func (p *person) receive(online chan struct{}) {
	last := time.Now().UnixNano() / 100 // as a timetoken
	resume := time.NewTimer(resumePause)
	resume.Stop()
	for {
		select {
		case status := <-p.listener.Status:
			switch status.Category {
			case sdk.PNConnectedCategory:
				if online != nil {
					close(online)
					online = nil
				}
			case sdk.PNDisconnectedUnexpectedlyCategory, sdk.PNUnknownCategory, sdk.PNAccessDeniedCategory, sdk.PNBadRequestCategory:
				resume.Reset(resumePause)
			default: // it goes on by itself, or is meant to end
			}
		case <-resume.C:
			p.client.Subscribe().Channels(p.channels()).Timetoken(last).Execute()
		case m := <-p.listener.Message:
			last = max(last, m.Timetoken)
			if n, ok := readNotice(m.Message); ok {
				p.hear(p, n)
			}
		case <-p.listener.Presence:
		case <-p.listener.Signal:
		case <-p.life.Done():
			resume.Stop()
			return
		}
	}
}

// readNotice reads a notification. What follows one for the push gateways is none.
func readNotice(payload any) (notice, bool) {
	data, err := json.Marshal(payload)
	if err != nil {
		return notice{}, false
	}
	var n notice
	err = json.Unmarshal(data, &n)
	return n, err == nil && n.Type != ""
}

// say publishes a message in the person's own name.
func (p *person) say(ctx context.Context, channel string, m message) error {
	if _, _, err := m.encode(); err != nil {
		return err
	}
	return insist(ctx, p.complain, func(ctx context.Context) error {
		_, status, err := p.client.PublishWithContext(ctx).Channel(channel).Message(map[string]any(m)).UsePost(true).Execute()
		if err != nil {
			// The SDK's errors hold the whole request.
			return fmt.Errorf("%s cannot publish %v: status %d from PubNub", p.id, m["action"], status.StatusCode)
		}
		return nil
	})
}

// insist tries until it works or ctx ends, as people do. A repeat is harmless: the message has an id.
func insist(ctx context.Context, complain func(string), try func(context.Context) error) error {
	pause := delay(retryPause)
	for attempt := 1; ; attempt++ {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if attempt == complainAfter {
			complain(err.Error() + "; still trying")
		}
		if !pause.wait(ctx) {
			return ctx.Err()
		}
		pause = min(2*pause, delay(longestPause))
	}
}

// leave goes offline. The SDK's Destroy is not called: v7.4.0 panics in it when the client has made no request but polls.
func (p *person) leave() {
	p.once.Do(func() {
		p.client.UnsubscribeAll()
		p.end() // last: the SDK waits for its listeners
		p.busy.Wait()
	})
}

// attendTo does something about an escalation in the background, unless it is being done already.
func (p *person) attendTo(escalation string, work func(context.Context)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls[escalation] != nil {
		return
	}
	ctx, cancel := context.WithCancel(p.life)
	p.calls[escalation] = cancel
	p.busy.Go(func() {
		defer p.dismiss(escalation)
		work(ctx)
	})
}

// dismiss ends what is being done about an escalation.
func (p *person) dismiss(escalation string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cancel := p.calls[escalation]; cancel != nil {
		cancel()
		delete(p.calls, escalation)
	}
}

// inbox is where visits wait for notifications of their people.
type inbox struct {
	mu      sync.Mutex
	waiting map[letter]chan struct{}
}

type letter struct{ user, kind, appointment string }

// expect is closed when the notification comes, from now on.
func (i *inbox) expect(user, kind, appointment string) <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.waiting == nil {
		i.waiting = map[letter]chan struct{}{}
	}
	key := letter{user, kind, appointment}
	if i.waiting[key] == nil {
		i.waiting[key] = make(chan struct{})
	}
	return i.waiting[key]
}

func (i *inbox) deliver(user string, n notice) {
	i.mu.Lock()
	defer i.mu.Unlock()
	key := letter{user, n.Type, n.Appointment}
	if arrived := i.waiting[key]; arrived != nil {
		close(arrived)
		delete(i.waiting, key)
	}
}

// forget ends the waiting for a visit that is over.
func (i *inbox) forget(appointment string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for key := range i.waiting {
		if key.appointment == appointment {
			delete(i.waiting, key)
		}
	}
}
