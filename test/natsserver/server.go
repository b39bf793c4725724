// Package natsserver runs a real nats-server with JetStream inside the process, for tests and for the local
// development stack. It never stands in for a broker in production.
package natsserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// readyTimeout bounds how long a start may take; a start replays the stored streams.
const readyTimeout = 30 * time.Second

// Options configures a server. The zero value listens on a free port of 127.0.0.1 and stores in a temporary folder
// that Close removes.
type Options struct {
	Addr      string                // host:port; "" is 127.0.0.1 and any free port
	StoreDir  string                // where the streams live; "" is a temporary folder
	Configure func(*server.Options) // last word on the server's options, e.g. users; may be nil
}

// Server is one server that can be stopped, killed and started again on the same address and folder. It is not safe for
// concurrent use.
type Server struct {
	opts    server.Options
	dir     string
	temp    bool
	running *server.Server
}

// Start starts a server and returns when it accepts connections.
func Start(o Options) (*Server, error) {
	host, port := "127.0.0.1", server.RANDOM_PORT
	if o.Addr != "" {
		h, p, err := net.SplitHostPort(o.Addr)
		if err != nil {
			return nil, fmt.Errorf("nats server address: %w", err)
		}
		n, err := strconv.Atoi(p)
		if err != nil {
			return nil, fmt.Errorf("nats server port: %w", err)
		}
		host = h
		if n != 0 {
			port = n
		}
	}
	s := &Server{dir: o.StoreDir}
	if s.dir == "" {
		dir, err := os.MkdirTemp("", "natsserver-")
		if err != nil {
			return nil, fmt.Errorf("nats server store: %w", err)
		}
		s.dir, s.temp = dir, true
	}
	s.opts = server.Options{
		ServerName: "consultd-embedded",
		Host:       host,
		Port:       port,
		JetStream:  true,
		StoreDir:   s.dir,
		NoLog:      true,
		NoSigs:     true,
	}
	if o.Configure != nil {
		o.Configure(&s.opts)
	}
	if err := s.Start(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// StartTB starts a server for one test and closes it when the test ends.
func StartTB(tb testing.TB, o Options) *Server {
	tb.Helper()
	s, err := Start(o)
	if err != nil {
		tb.Fatalf("start nats server: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close nats server: %v", err)
		}
	})
	return s
}

// Start starts the server again after Stop or Kill, on the same address with the same streams. It does nothing when
// the server runs.
func (s *Server) Start() error {
	if s.running != nil {
		return nil
	}
	opts := s.opts // the server writes into its options
	ns, err := server.NewServer(&opts)
	if err != nil {
		return fmt.Errorf("nats server: %w", err)
	}
	ns.Start()
	if !ns.ReadyForConnections(readyTimeout) {
		ns.Shutdown()
		ns.WaitForShutdown()
		return fmt.Errorf("nats server on %s: not ready after %s; is the port taken?",
			net.JoinHostPort(s.opts.Host, strconv.Itoa(s.opts.Port)), readyTimeout)
	}
	if addr, ok := ns.Addr().(*net.TCPAddr); ok {
		s.opts.Port = addr.Port
	}
	s.running = ns
	return nil
}

// Stop ends the server in order: connections are cut at once, and every stream writes its state to disk.
func (s *Server) Stop() {
	if s.running == nil {
		return
	}
	s.running.Shutdown()
	s.running.WaitForShutdown()
	s.running = nil
}

// Kill ends the server and leaves its folder as a crash would: connections are cut at once, and the indexes that only
// an orderly end writes are gone, so that the next start has to rebuild from the stored messages.
func (s *Server) Kill() error {
	s.Stop()
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == "index.db" {
			return os.Remove(path)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("nats server kill: %w", err)
	}
	return nil
}

// Close stops the server and removes the folder if it was a temporary one.
func (s *Server) Close() error {
	s.Stop()
	if !s.temp {
		return nil
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("nats server store: %w", err)
	}
	return nil
}

// URL is where clients connect; it stays the same across restarts.
func (s *Server) URL() string {
	return "nats://" + net.JoinHostPort(s.opts.Host, strconv.Itoa(s.opts.Port))
}

// StoreDir is the folder that holds the streams.
func (s *Server) StoreDir() string { return s.dir }
