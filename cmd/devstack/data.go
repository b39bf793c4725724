package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"consultd/store"
)

// dataDir is where a stack keeps everything: streams, Redis, keys, configuration and the daemon's log.
type dataDir struct {
	path string
	kept bool
	run  int // 1 for the first time that a stack runs here
	lock *os.File
}

const (
	keysDir    = "keys"
	sealingKey = "sealing-keyset.json"
	auditKey   = "audit-signing-seed"
	cipherKey  = "cipher-key"
)

// openData prepares a directory: the named one, or a temporary one when name is "".
func openData(name string) (*dataDir, error) {
	d := &dataDir{kept: name != ""}
	var err error
	if d.kept {
		if d.path, err = filepath.Abs(name); err != nil {
			return nil, fmt.Errorf("data directory: %w", err)
		}
	} else if d.path, err = os.MkdirTemp("", "devstack-"); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := d.prepare(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *dataDir) prepare() error {
	for _, dir := range []string{d.path, d.file("nats"), d.file("redis"), d.file(keysDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	}
	var err error
	if d.lock, err = lock(d.file("lock")); err != nil {
		return fmt.Errorf("data directory %s: %w", d.path, err)
	}
	if d.run, err = d.countRun(); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	for name, make := range map[string]func() ([]byte, error){
		sealingKey: store.GenerateKeyset,
		auditKey:   func() ([]byte, error) { return randomText(ed25519.SeedSize), nil },
		cipherKey:  func() ([]byte, error) { return randomText(24), nil },
	} {
		if err := keep(d.key(name), make); err != nil {
			return fmt.Errorf("key: %w", err)
		}
	}
	return nil
}

func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

func (d *dataDir) key(name string) string { return filepath.Join(d.path, keysDir, name) }

// countRun numbers the runs, so that a simulated clinic uses no appointment twice.
func (d *dataDir) countRun() (int, error) {
	text, err := os.ReadFile(d.file("runs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil && len(text) > 0 {
		return 0, fmt.Errorf("%s holds no number; remove the file", d.file("runs"))
	}
	n++
	return n, os.WriteFile(d.file("runs"), []byte(strconv.Itoa(n)+"\n"), 0o600)
}

// close lets go of the directory, and removes it if it is temporary. It may be called more than once.
func (d *dataDir) close() {
	if !d.kept {
		_ = os.RemoveAll(d.path) // nothing depends on a temporary directory going
	}
	if d.lock != nil {
		_ = d.lock.Close()
	}
}

// keep writes a key where there is none yet.
func keep(path string, make func() ([]byte, error)) error {
	if _, err := os.Stat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text, err := make()
	if err != nil {
		return err
	}
	return writeFile(path, append(text, '\n'))
}

// writeFile writes a file that is there as a whole or not at all.
func writeFile(path string, data []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	_, err = temp.Write(data)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}

func randomText(bytes int) []byte {
	raw := make([]byte, bytes)
	_, _ = rand.Read(raw) // never fails; see crypto/rand
	return []byte(base64.StdEncoding.EncodeToString(raw))
}
