package control

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
)

// ConfigVersion is the newest format of card.json that this program reads. It
// grows only when an older reader would misunderstand the file; a new key does
// not change it. A file without the key version has version 1.
const ConfigVersion = 1

// Bounds on what a configuration says about itself.
const (
	maxCritical = 64
	maxIgnored  = 32
	maxKeyText  = 128 // bytes of one ignored key in the status
)

// header is what every version of card.json has. It is read first, because
// the rest of a newer version may not fit Config.
type header struct {
	Version  int      `json:"version"`
	Critical []string `json:"critical"`
}

// ParseConfig decodes a configuration and validates it. Host and card may have
// different versions, so the rule for keys that this version does not know is:
//
//   - An unknown key is ignored. Config.Ignored names it, and so does the card's
//     status.
//   - An unknown key that the list "critical" names is an error: the host says
//     that the card must not run without it (compare "crit" in RFC 7515, section
//     4.1.11). Encode makes the list from the fields tagged critical:"true".
//   - A version above ConfigVersion is an error.
//
// Anything after the object, a wrong type and a bad value are errors as well.
func ParseConfig(data []byte) (*Config, error) {
	if len(data) > MaxConfig {
		return nil, fmt.Errorf("configuration: %d bytes, at most %d", len(data), MaxConfig)
	}
	var h header
	if err := decodeOne(data, &h); err != nil {
		return nil, err
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	c := new(Config)
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c.Critical = nil // checked above; Encode makes its own
	if c.Version == 1 {
		c.Version = 0
	}
	c.Digest, c.Ignored = Digest(data), ignoredKeys(data)
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return c, nil
}

// Digest identifies a configuration: the SHA-256 of card.json in hex. Host and
// card compare it, so it is taken of the bytes and not of what they mean.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// decodeOne reads one JSON value with nothing after it.
func decodeOne(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("configuration: data after the object at byte %d, want one object",
			dec.InputOffset())
	}
	return nil
}

func (h *header) check() error {
	if h.Version < 0 || h.Version > ConfigVersion {
		return fmt.Errorf("configuration: version: %d, this card reads versions up to %d; fix: update its firmware",
			h.Version, ConfigVersion)
	}
	if len(h.Critical) > maxCritical {
		return fmt.Errorf("configuration: critical: %d keys, at most %d", len(h.Critical), maxCritical)
	}
	for _, path := range h.Critical {
		if !knowsKey(reflect.TypeFor[Config](), path) {
			return fmt.Errorf("configuration: %.*q: this card does not know the key and must not ignore it; "+
				"fix: update its firmware", maxKeyText, path)
		}
	}
	return nil
}
