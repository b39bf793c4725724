package natsserver

import (
	"os"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestRestartsKeepAddressAndStreams(t *testing.T) {
	s := StartTB(t, Options{})
	url := s.URL()
	open := func() jetstream.JetStream {
		nc, err := nats.Connect(s.URL())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return js
	}
	js := open()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	stops := []func() error{func() error { s.Stop(); return nil }, s.Kill}
	for i := range 4 {
		if _, err := js.Publish(t.Context(), "s", []byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := stops[i%2](); err != nil {
			t.Fatal(err)
		}
		if nc, err := nats.Connect(url); err == nil {
			nc.Close()
			t.Fatal("a stopped server accepts connections")
		}
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		if s.URL() != url {
			t.Fatalf("moved from %s to %s", url, s.URL())
		}
		js = open()
		stream, err := js.Stream(t.Context(), "S")
		if err != nil || stream.CachedInfo().State.Msgs != uint64(i+1) {
			t.Fatalf("after stop %d: %v", i, err)
		}
	}
}

func TestCloseRemovesOnlyItsOwnFolder(t *testing.T) {
	temp, err := Start(Options{})
	if err != nil {
		t.Fatal(err)
	}
	given, err := Start(Options{StoreDir: t.TempDir(), Addr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	for s, kept := range map[*Server]bool{temp: false, given: true} {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(s.StoreDir()); (err == nil) != kept {
			t.Errorf("folder kept: %v", err == nil)
		}
	}
	if _, err := Start(Options{Addr: "nonsense"}); err == nil {
		t.Error("an address without a port was accepted")
	}
}
