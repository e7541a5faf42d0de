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
	"slices"
	"strings"

	"github.com/toe-project/toe/feature"
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
		return fmt.Errorf("configuration: data after the object at byte %d, want one object", dec.InputOffset())
	}
	return nil
}

func (h *header) check() error {
	if h.Version < 0 || h.Version > ConfigVersion {
		return fmt.Errorf("configuration: version: %d, this card reads versions up to %d; update its firmware", h.Version, ConfigVersion)
	}
	if len(h.Critical) > maxCritical {
		return fmt.Errorf("configuration: critical: %d keys, at most %d", len(h.Critical), maxCritical)
	}
	for _, path := range h.Critical {
		if !knowsKey(reflect.TypeFor[Config](), path) {
			return fmt.Errorf("configuration: %.*q: this card does not know the key and must not ignore it; update its firmware", maxKeyText, path)
		}
	}
	return nil
}

// knowsKey says whether the path, keys joined by dots, leads to a field of t.
func knowsKey(t reflect.Type, path string) bool {
	for key := range strings.SplitSeq(path, ".") {
		f, ok := fieldOf(elemOf(t), key)
		if !ok {
			return false
		}
		t = f.Type
	}
	return true
}

// ignoredKeys lists the keys of data that Config does not have, sorted, the
// first maxIgnored of them.
func ignoredKeys(data []byte) []string {
	var tree any
	if json.Unmarshal(data, &tree) != nil {
		return nil
	}
	known := map[string]bool{}
	collectUnknown(tree, reflect.TypeFor[Config](), "", known)
	var keys []string
	for key := range known {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys[:min(len(keys), maxIgnored)]
}

// collectUnknown adds the unknown keys of tree, which was decoded into a value
// of type t. The elements of a list share one path, without an index.
func collectUnknown(tree any, t reflect.Type, path string, unknown map[string]bool) {
	t = elemOf(t)
	switch tree := tree.(type) {
	case []any:
		for _, e := range tree {
			collectUnknown(e, t, path, unknown)
		}
	case map[string]any:
		if t.Kind() != reflect.Struct || feature.Opaque(t) {
			return
		}
		for key, value := range tree {
			if f, ok := fieldOf(t, key); ok {
				collectUnknown(value, f.Type, path+key+".", unknown)
			} else if len(unknown) < MaxConfig/64 {
				unknown[visible(path+key, maxKeyText)] = true
			}
		}
	}
}

// elemOf is the type behind pointers and lists.
func elemOf(t reflect.Type) reflect.Type {
	for (t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice) && !feature.Opaque(t) {
		t = t.Elem()
	}
	return t
}

// fieldOf finds the field of a struct that encoding/json fills from a key. It
// compares as encoding/json does, without regard to case.
func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	if t.Kind() != reflect.Struct || feature.Opaque(t) {
		return reflect.StructField{}, false
	}
	for f := range feature.Fields(t, "json") {
		if strings.EqualFold(f.Key, key) {
			return f.StructField, true
		}
	}
	return reflect.StructField{}, false
}

// criticalKeys lists the paths of fields that are set and tagged critical.
func criticalKeys(v reflect.Value, path string) []string {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return criticalKeys(v.Elem(), path)
		}
	case reflect.Slice:
		var out []string
		for i := range v.Len() {
			out = append(out, criticalKeys(v.Index(i), path)...)
		}
		return out
	case reflect.Struct:
		return criticalFields(v, path)
	}
	return nil
}

func criticalFields(v reflect.Value, path string) []string {
	var out []string
	for f := range feature.Fields(v.Type(), "json") {
		field := v.FieldByIndex(f.Index)
		if field.IsZero() {
			continue
		}
		if f.Tag.Get("critical") == "true" {
			out = append(out, path+f.Key)
		}
		out = append(out, criticalKeys(field, path+f.Key+".")...)
	}
	return out
}
