package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/redis/go-redis/v9"
)

// The bare pipeline: an ordered consumer hands each event to one of 64 serial lanes; a lane stores it with a small script
// (duplicate, version, state, outbox, timer) through one shared pipeline, publishes the outbox entry, and removes it.
const (
	bareLanes = 64
	bareBatch = 128
)

var bareScript = redis.NewScript(`
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 'duplicate' end
redis.call('HSET', KEYS[1], ARGV[1], 1, 's', ARGV[2])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[4])
return redis.call('XADD', KEYS[2], '*', 'p', ARGV[2])`)

type bareJob struct {
	subject, id string
	data        []byte
	done        chan string // the outbox entry
}

func bareChild(ctx context.Context, servers string) error {
	natsURL, redisAddr, _ := strings.Cut(servers, ",")
	nc, err := nats.Connect(natsURL)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		return err
	}
	for name, subject := range map[string]string{"BARE_IN": "bare.in.>", "BARE_OUT": "bare.out.>"} {
		if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: name, Subjects: []string{subject}, Storage: jetstream.FileStorage}); err != nil {
			return err
		}
	}
	rdb := redis.NewClient(&redis.Options{Addr: redisAddr, PoolSize: 2})
	defer func() { _ = rdb.Close() }()
	if err := bareScript.Load(ctx, rdb).Err(); err != nil {
		return err
	}
	commits := make(chan *bareJob, bareLanes)
	deletes := make(chan [2]string, 4096)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { bareCommits(ctx, rdb, commits) })
	wg.Go(func() { bareDeletes(ctx, rdb, deletes) })
	var lanes [bareLanes]chan jetstream.Msg
	for i := range lanes {
		lanes[i] = make(chan jetstream.Msg, 256)
		wg.Go(func() { bareLane(ctx, js, i, lanes[i], commits, deletes) })
	}
	consumer, err := js.OrderedConsumer(ctx, "BARE_IN", jetstream.OrderedConsumerConfig{})
	if err != nil {
		return err
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		h := fnv.New64a()
		_, _ = h.Write([]byte(strings.Split(m.Subject(), ".")[2]))
		select {
		case lanes[h.Sum64()%bareLanes] <- m:
		case <-ctx.Done():
		}
	}, jetstream.PullMaxMessages(512))
	if err != nil {
		return err
	}
	defer consuming.Stop()
	fmt.Println(readyMark + "bare")
	<-ctx.Done()
	return nil
}

func bareLane(ctx context.Context, js jetstream.JetStream, n int, in chan jetstream.Msg, commits chan *bareJob, deletes chan [2]string) {
	outbox := make(chan [3]string, 256)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(outbox)
	wg.Go(func() { // the relay: one message at a time per lane, so that order is kept
		for m := range outbox {
			_, err := js.PublishMsg(ctx, &nats.Msg{Subject: m[0], Data: []byte(m[1]), Header: nats.Header{"Nats-Msg-Id": {m[0] + m[2]}}})
			if err == nil {
				deletes <- [2]string{fmt.Sprintf("{bare}out:%d", n), m[2]}
			}
		}
	})
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-in:
			j := &bareJob{subject: m.Subject(), id: m.Headers().Get("Nats-Msg-Id"), data: m.Data(), done: make(chan string, 1)}
			select {
			case commits <- j:
			case <-ctx.Done():
				return
			}
			entry := <-j.done
			outbox <- [3]string{"bare.out" + strings.TrimPrefix(j.subject, "bare.in"), string(j.data), entry}
		}
	}
}

func bareCommits(ctx context.Context, rdb *redis.Client, commits chan *bareJob) {
	for {
		var batch []*bareJob
		select {
		case <-ctx.Done():
			return
		case j := <-commits:
			batch = append(batch, j)
		}
	fill:
		for len(batch) < bareBatch {
			select {
			case j := <-commits:
				batch = append(batch, j)
			default:
				break fill
			}
		}
		pipe := rdb.Pipeline()
		answers := make([]*redis.Cmd, len(batch))
		for i, j := range batch {
			h := fnv.New64a()
			_, _ = h.Write([]byte(strings.Split(j.subject, ".")[2]))
			lane := h.Sum64() % bareLanes
			answers[i] = bareScript.EvalSha(ctx, pipe, []string{
				"{bare}rec:" + j.subject, fmt.Sprintf("{bare}out:%d", lane), fmt.Sprintf("{bare}timers:%d", lane),
			}, j.id, j.data, time.Now().Add(time.Minute).UnixMilli(), j.subject)
		}
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, context.Canceled) {
			panic(err)
		}
		for i, j := range batch {
			entry, _ := answers[i].Text()
			j.done <- entry
		}
	}
}

func bareDeletes(ctx context.Context, rdb *redis.Client, deletes chan [2]string) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-deletes:
			pipe := rdb.Pipeline()
			pipe.XDel(ctx, d[0], d[1])
		more:
			for range bareBatch {
				select {
				case d := <-deletes:
					pipe.XDel(ctx, d[0], d[1])
				default:
					break more
				}
			}
			_, _ = pipe.Exec(ctx)
		}
	}
}
