package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"consultd/store"
)

const cipherKeyBytes = 32

func keysCommand() *cobra.Command {
	group := &cobra.Command{Use: "keys", Short: "Make the keys that the configuration needs"}
	group.AddCommand(keysGenerateCommand())
	return group
}

// key is one generated value with the place where it belongs.
type key struct{ file, field, about, value string }

func keysGenerateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "generate",
		Short: "Make a sealing keyset, an audit signing key with its public key, and a cipher key, and print them or write them to files",
		Args:  cobra.NoArgs,
	}
	dir := cmd.Flags().String("dir", "", "write each key into a file of its own in this folder, readable by you alone, instead of printing it")
	cmd.RunE = work(func(cmd *cobra.Command, _ []string) error {
		keys, err := generateKeys()
		if err != nil {
			return err
		}
		for _, k := range keys {
			if *dir == "" {
				cmd.Printf("# %s: %s\n%s\n", k.field, k.about, k.value)
				continue
			}
			path := filepath.Join(*dir, k.file)
			if err := writeNew(path, k.value); err != nil {
				return fmt.Errorf("write keys: %w", err)
			}
			cmd.Printf("%s: file:%s\n", k.field, path)
		}
		return nil
	})
	return cmd
}

func generateKeys() ([]key, error) {
	keyset, err := store.GenerateKeyset()
	if err != nil {
		return nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate signing key: %w", err)
	}
	cipher := make([]byte, cipherKeyBytes)
	if _, err := rand.Read(cipher); err != nil {
		return nil, fmt.Errorf("generate cipher key: %w", err)
	}
	text := base64.StdEncoding.EncodeToString
	return []key{
		{"sealing-keyset.json", "sealing.keyset", "seals what Redis keeps; without it Redis is unreadable", string(keyset)},
		{"audit-signing-key", "audit.signing_key", "signs the audit trail's checkpoints", text(private.Seed())},
		{"audit-public-key", "audit.previous_keys", "not secret; add it here when the signing key is replaced", text(public)},
		{"cipher-key", "pubnub.cipher_keys", "encrypts PubNub messages; the apps need the same one", text(cipher)},
	}, nil
}

// writeNew never replaces a file: an overwritten key is a lost one.
func writeNew(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) // #nosec G304 -- the operator names the folder
	if err != nil {
		return err
	}
	_, err = file.WriteString(text + "\n")
	return errors.Join(err, file.Close())
}
