package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// readiness is what a program that starts devstack needs to know, and the content of the ready file.
type readiness struct {
	NATS           string `json:"nats"`
	Redis          string `json:"redis"`
	PubNub         string `json:"pubnub"`
	Ops            string `json:"ops"`
	PublishKey     string `json:"publishKey"`
	SubscribeKey   string `json:"subscribeKey"`
	SecretKey      string `json:"secretKey"`
	CipherKey      string `json:"cipherKey"`
	OrganizationID string `json:"organizationId"`
	Config         string `json:"config"`
}

func (r readiness) write(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	if err := writeFile(path, append(data, '\n')); err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}

// removeReady removes the file of an earlier run, which would be taken for this one's.
func removeReady(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}
