package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/alicebob/miniredis/v2"

	"consultd/test/natsserver"
	"consultd/test/pubnub"
	"consultd/test/redis"
)

// free says early and clearly that an address cannot be used: the servers themselves take long or say it in riddles.
func free(flag, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%s %q: write it as host:port, such as 127.0.0.1:0", flag, addr)
	}
	if port == "0" {
		return nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("%s: %w; choose another address, or port 0 for a free one", flag, err)
	}
	return l.Close()
}

// pickPort replaces port 0 by one that is free now.
func pickPort(addr string) (string, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return "", fmt.Errorf("free port: %w", err)
	}
	defer l.Close() //nolint:errcheck // it never carried anything
	return l.Addr().String(), nil
}

func startNATS(addr, dir string) (*natsserver.Server, error) {
	return natsserver.Start(natsserver.Options{Addr: addr, StoreDir: dir})
}

func startPubNub(addr string, k pubnubKeys) (*pubnub.Server, error) {
	return pubnub.Start(pubnub.Config{
		Addr: addr, PublishKey: k.publish, SubscribeKey: k.subscribe, SecretKey: k.secret,
		HistoryLimit: 1000, MemoryLimit: 64 << 20, // this may run for days
	})
}

// pubnubKeys is the one key set that the stand-in serves.
type pubnubKeys struct{ publish, subscribe, secret string }

// redisServer is either a real server or one in this process's memory.
type redisServer struct {
	addr string
	kind string // for people
	stop func()
}

const redisPatience = 15 * time.Second

// startRedis prefers a real redis-server. keep says that its data is to survive a restart.
func startRedis(ctx context.Context, addr, dir string, keep bool) (redisServer, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return redisServer{}, fmt.Errorf("redis address: %w", err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return redisServer{}, fmt.Errorf("redis port: %w", err)
	}
	o := redis.Options{Dir: dir, Port: port, AppendOnly: keep}
	reach := "127.0.0.1"
	if host != "127.0.0.1" && host != "localhost" {
		// Whoever names another interface wants others to reach it, which Redis refuses without a password.
		o.Args = []string{"--bind", "127.0.0.1", host, "--protected-mode", "no"}
		reach = host
	}
	ctx, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	server, err := redis.Start(ctx, o)
	if errors.Is(err, redis.ErrNotInstalled) {
		return startMemoryRedis(addr)
	}
	if err != nil {
		return redisServer{}, err
	}
	_, portText, err = net.SplitHostPort(server.Addr())
	if err != nil {
		server.Stop()
		return redisServer{}, fmt.Errorf("redis address: %w", err)
	}
	return redisServer{net.JoinHostPort(reach, portText), "redis-server, a child of this process", server.Stop}, nil
}

// memoryClock is how often miniredis is told that time has passed: it forgets nothing by itself.
const memoryClock = 100 * time.Millisecond

func startMemoryRedis(addr string) (redisServer, error) {
	m := miniredis.NewMiniRedis()
	if err := m.StartAddr(addr); err != nil {
		return redisServer{}, fmt.Errorf("in-memory redis: %w", err)
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(memoryClock)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-done:
				return
			case now := <-tick.C:
				m.FastForward(now.Sub(last))
				last = now
			}
		}
	}()
	return redisServer{m.Addr(), "in memory: no redis-server on the PATH", func() {
		close(done)
		<-ended
		m.Close()
	}}, nil
}
