package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/goccy/go-yaml"

	"consultd/config"
	"consultd/test/pubnub"
)

// settings is a configuration as YAML sees it.
type settings map[string]any

// ownSettings is what devstack configures by itself, but for the addresses.
func ownSettings(d *dataDir, sim bool) settings {
	s := settings{
		"organization": "demo-clinic",
		"environment":  "development",
		"pubnub": settings{
			"enabled":       true,
			"secure":        false,
			"publish_key":   pubnub.DefaultPublishKey,
			"subscribe_key": pubnub.DefaultSubscribeKey,
			"secret_key":    pubnub.DefaultSecretKey,
			"cipher_keys":   []any{"file:" + d.key(cipherKey)},
		},
		"sealing": settings{"keyset": "file:" + d.key(sealingKey)},
		"audit":   settings{"signing_key": "file:" + d.key(auditKey)},
		"directory": settings{"staff": settings{
			"nurse-1": "nurse",
			"desk-1":  "front-desk",
		}},
		"escalation": settings{
			"on_call": settings{
				"cardiology":  []any{"dr-okafor", "dr-haddad"},
				"paediatrics": []any{"dr-sato", "dr-haddad"},
			},
			"failsafe":           []any{"switchboard"},
			"default_department": "cardiology",
		},
		"shutdown": settings{"drain": "5s"}, // whoever pressed Ctrl-C is waiting
	}
	if sim {
		// So that somebody who watches sees a page that nobody answers repeated.
		s["escalation"].(settings)["re_page"] = settings{"urgent": "15s", "critical": "10s", "life-threatening": "6s"}
	}
	return s
}

// mergeFile lays a YAML file over the settings.
func (s settings) mergeFile(path string) error {
	data, err := os.ReadFile(path) // #nosec G304 -- the user names the file
	if err != nil {
		return fmt.Errorf("configuration to merge: %w", err)
	}
	var over settings
	if err := yaml.Unmarshal(data, &over); err != nil {
		return fmt.Errorf("configuration to merge: %s: %w", path, err)
	}
	s.merge(over)
	return nil
}

// merge lays other settings over these: maps are merged key by key, everything else is replaced.
func (s settings) merge(over settings) {
	for key, value := range over {
		below, wasMap := asSettings(s[key])
		above, isMap := asSettings(value)
		if wasMap && isMap {
			below.merge(above)
			s[key] = below
		} else {
			s[key] = value
		}
	}
}

func asSettings(value any) (settings, bool) {
	switch v := value.(type) {
	case settings:
		return v, true
	case map[string]any:
		return v, true
	default:
		return nil, false
	}
}

const configHead = `# Written by devstack at its start and overwritten at the next one; devstack --config FILE merges a file over it.
# A consultd in another terminal takes it as it is: consultd run --config FILE
`

// write puts the settings where consultd can read them, and reads them as consultd does.
func (s settings) write(path string) (*config.Config, error) {
	data, err := yaml.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if err := writeFile(path, append([]byte(configHead), data...)); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	if len(cfg.PubNub.CipherKeys) == 0 {
		return nil, errors.New("configuration: pubnub.cipher_keys is empty; devstack's apps encrypt")
	}
	return cfg, nil
}
