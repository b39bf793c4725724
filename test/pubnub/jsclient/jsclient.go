// Package jsclient drives one real PubNub JavaScript SDK client, in a node process of its own, for development and tests
// only. It never interprets what the client sends or receives; it only carries it.
package jsclient

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// Options are the settings of the JavaScript client.
type Options struct {
	// Origin is host and port of the stand-in: (*pubnub.Server).Origin().
	Origin       string `json:"origin"`
	PublishKey   string `json:"publishKey"`
	SubscribeKey string `json:"subscribeKey"`
	// SecretKey makes the client sign its requests. Devices have none.
	SecretKey string `json:"secretKey,omitempty"`
	UserID    string `json:"userId"`
	// CipherKey makes the client encrypt and decrypt with the SDK's aesCbcCryptoModule.
	CipherKey string `json:"cipherKey,omitempty"`
	// Settings are further SDK settings, such as authKey or presenceTimeout.
	Settings map[string]any `json:"-"`
}

// Message is something the client received.
type Message struct {
	Type         string          `json:"type"` // message, signal, presence, objects, messageAction, file, status
	Channel      string          `json:"channel"`
	Subscription string          `json:"subscription"`
	Timetoken    string          `json:"timetoken"`
	Publisher    string          `json:"publisher"`
	Payload      json.RawMessage `json:"message"`
	Meta         json.RawMessage `json:"meta"`
	CustomType   string          `json:"customMessageType"`
	// Error says that the payload could not be decrypted and is as it came.
	Error string `json:"error"`
	// Category and Operation belong to status.
	Category  string `json:"category"`
	Operation string `json:"operation"`
}

// Error is how the SDK reported a failed call.
type Error struct {
	Message    string `json:"message"`
	StatusCode int    `json:"statusCode"` // 0 when there was no answer
	Category   string `json:"category"`
}

func (e *Error) Error() string {
	return fmt.Sprintf("javascript client: %s (status %d, %s)", e.Message, e.StatusCode, e.Category)
}

// Client is a running JavaScript client. Its methods may be called concurrently.
type Client struct {
	process *exec.Cmd
	stdin   io.WriteCloser
	stderr  *tail
	ready   chan struct{}
	ended   chan struct{} // closed when the process is gone

	messages, presence, statuses *feed

	mu      sync.Mutex
	lastID  int
	waiting map[int]chan reply
}

type reply struct {
	Result json.RawMessage `json:"result"`
	Error  *Error          `json:"error"`
}

// Start starts the client and installs the SDK before when that was not done yet. The client ends with Close or when ctx
// does. It needs node 20 or newer and npm.
func Start(ctx context.Context, options Options) (*Client, error) {
	directory, err := Install(ctx)
	if err != nil {
		return nil, err
	}
	settings, err := options.encode()
	if err != nil {
		return nil, fmt.Errorf("start javascript client: %w", err)
	}
	c := &Client{
		ready: make(chan struct{}), ended: make(chan struct{}), stderr: &tail{}, waiting: make(map[int]chan reply),
		messages: newFeed(), presence: newFeed(), statuses: newFeed(),
	}
	c.process = exec.CommandContext(ctx, "node", filepath.Join(directory, "client.mjs"), string(settings))
	c.process.Stderr = c.stderr
	c.process.WaitDelay = 5 * time.Second
	if c.stdin, err = c.process.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start javascript client: %w", err)
	}
	stdout, err := c.process.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start javascript client: %w", err)
	}
	if err := c.process.Start(); err != nil {
		return nil, fmt.Errorf("start javascript client: %w (node 20 or newer has to be installed)", err)
	}
	go c.read(stdout)
	for _, f := range []*feed{c.messages, c.presence, c.statuses} {
		go f.run(c.ended)
	}
	select {
	case <-c.ready:
		return c, nil
	case <-c.ended:
		return nil, fmt.Errorf("start javascript client: it ended at once: %s", c.stderr)
	}
}

func (o Options) encode() ([]byte, error) {
	plain, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	all := make(map[string]any)
	for name, value := range o.Settings {
		all[name] = value
	}
	if err := json.Unmarshal(plain, &all); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}

// Install makes sure the SDK is installed as locked and gives the directory of the scripts. It is found by walking up from
// the working directory, so it works in every test of this module.
func Install(ctx context.Context) (string, error) {
	directory, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("install javascript sdk: %w", err)
	}
	for {
		scripts := filepath.Join(directory, "test", "pubnub", "js")
		if _, err := os.Stat(filepath.Join(scripts, "install.sh")); err == nil {
			if output, err := exec.CommandContext(ctx, "sh", filepath.Join(scripts, "install.sh")).CombinedOutput(); err != nil {
				return "", fmt.Errorf("install javascript sdk: %w: %s (run test/pubnub/js/install.sh with npm and a package registry at hand)", err, output)
			}
			return scripts, nil
		}
		parent := filepath.Dir(directory)
		if parent == directory {
			return "", errors.New("install javascript sdk: test/pubnub/js is in no directory above the working directory")
		}
		directory = parent
	}
}

// Close ends the process; a client that was subscribed leaves its channels first.
func (c *Client) Close() {
	_ = c.stdin.Close()
	<-c.ended
}

// Publish posts a message and returns its timetoken.
func (c *Client) Publish(ctx context.Context, channel string, message any) (timetoken string, err error) {
	return c.Send(ctx, "publish", map[string]any{"channel": channel, "message": message, "sendByPost": true})
}

// Send is publish, signal or fire with the SDK's own parameters; fire has no timetoken.
func (c *Client) Send(ctx context.Context, op string, parameters map[string]any) (timetoken string, err error) {
	result, err := c.do(ctx, op, parameters)
	if err != nil {
		return "", err
	}
	var sent struct {
		Timetoken string `json:"timetoken"`
	}
	if err := json.Unmarshal(result, &sent); err != nil {
		return "", fmt.Errorf("javascript client: %s: %w", op, err)
	}
	return sent.Timetoken, nil
}

// Subscribe adds channels (wildcards too) and returns when the SDK says that it is connected.
func (c *Client) Subscribe(ctx context.Context, channels ...string) error {
	return c.SubscribeWith(ctx, map[string]any{"channels": channels})
}

// SubscribeWith is Subscribe with the SDK's own parameters: channels, channelGroups, withPresence, timetoken.
func (c *Client) SubscribeWith(ctx context.Context, parameters map[string]any) error {
	_, err := c.do(ctx, "subscribe", parameters)
	return err
}

// Unsubscribe leaves channels.
func (c *Client) Unsubscribe(ctx context.Context, channels ...string) error {
	_, err := c.do(ctx, "unsubscribe", map[string]any{"channels": channels})
	return err
}

// Call calls any other method of the SDK by its name, such as fetchMessages or objects.setUUIDMetadata, and gives its result.
func (c *Client) Call(ctx context.Context, method string, args ...any) (json.RawMessage, error) {
	return c.do(ctx, "call", map[string]any{"method": method, "args": args})
}

// Messages gives what was received in the order the SDK handed it over: messages, signals, events of objects, message
// actions and files. Nothing is dropped
// while the client runs, however late it is read; the channel is closed when the client has ended.
func (c *Client) Messages() <-chan Message { return c.messages.out }

// Presence gives presence events like Messages; the payload is the whole event.
func (c *Client) Presence() <-chan Message { return c.presence.out }

// Statuses gives status events like Messages.
func (c *Client) Statuses() <-chan Message { return c.statuses.out }

func (c *Client) do(ctx context.Context, op string, parameters map[string]any) (json.RawMessage, error) {
	command := map[string]any{"op": op}
	for name, value := range parameters {
		command[name] = value
	}
	answer := make(chan reply, 1)
	c.mu.Lock()
	c.lastID++
	id := c.lastID
	command["id"] = id
	c.waiting[id] = answer
	line, err := json.Marshal(command)
	if err == nil {
		_, err = c.stdin.Write(append(line, '\n'))
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	if err != nil {
		return nil, fmt.Errorf("javascript client: %s: %w", op, err)
	}
	select {
	case r := <-answer:
		if r.Error != nil {
			return nil, r.Error
		}
		return r.Result, nil
	case <-c.ended:
		return nil, fmt.Errorf("javascript client: %s: process ended: %s", op, c.stderr)
	case <-ctx.Done():
		return nil, fmt.Errorf("javascript client: %s: %w", op, ctx.Err())
	}
}

// read sorts the lines of the process and reaps it.
func (c *Client) read(stdout io.Reader) {
	defer close(c.ended)
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var head struct {
			Type string `json:"type"`
			ID   int    `json:"id"`
		}
		if json.Unmarshal(line, &head) != nil {
			continue // something the SDK wrote to its console
		}
		switch head.Type {
		case "ready":
			close(c.ready)
		case "reply":
			var r reply
			if err := json.Unmarshal(line, &r); err != nil {
				r.Error = &Error{Message: "unreadable reply: " + err.Error()}
			}
			c.mu.Lock()
			if to := c.waiting[head.ID]; to != nil {
				to <- r
				delete(c.waiting, head.ID)
			}
			c.mu.Unlock()
		default:
			var m Message
			if err := json.Unmarshal(line, &m); err != nil {
				continue
			}
			switch m.Type {
			case "presence":
				c.presence.add(m)
			case "status":
				c.statuses.add(m)
			default:
				c.messages.add(m)
			}
		}
	}
	_ = c.process.Wait()
}
