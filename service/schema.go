package service

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/toe-project/toe/feature"
	"github.com/toe-project/toe/internal/suggest"
)

// Schema is a JSON schema, of the words that service.yaml may use. Another word is an error.
type Schema struct {
	Type        string             `yaml:"type" json:"type"`
	Description string             `yaml:"description,omitempty" json:"description,omitempty"`
	Default     any                `yaml:"default,omitempty" json:"default,omitempty"`
	Enum        []string           `yaml:"enum,omitempty" json:"enum,omitempty"`
	Minimum     *int               `yaml:"minimum,omitempty" json:"minimum,omitempty"`
	Maximum     *int               `yaml:"maximum,omitempty" json:"maximum,omitempty"`
	Pattern     string             `yaml:"pattern,omitempty" json:"pattern,omitempty"`
	Format      string             `yaml:"format,omitempty" json:"format,omitempty"` // one of formats
	Items       *Schema            `yaml:"items,omitempty" json:"items,omitempty"`
	MaxItems    int                `yaml:"maxItems,omitempty" json:"maxItems,omitempty"`
	Properties  map[string]*Schema `yaml:"properties,omitempty" json:"properties,omitempty"`
	Required    []string           `yaml:"required,omitempty" json:"required,omitempty"`
}

// formats are those of a string, with what is wanted. Secret and text have a form of their own.
var formats = map[string]struct {
	want string
	ok   func(string) bool
}{
	"address": {"an address, such as 192.0.2.7", func(s string) bool { _, err := netip.ParseAddr(s); return err == nil }},
	"prefix":  {"an address with a prefix length, such as 192.0.2.0/24", isPrefix},
	"network": {"an address or a prefix, such as 192.0.2.0/24", func(s string) bool {
		_, err := netip.ParseAddr(s)
		return err == nil || isPrefix(s)
	}},
	"host":     {"a host name or an address", hostPattern.MatchString},
	"endpoint": {"HOST:PORT, such as vpn.example.org:51820", endpointPattern.MatchString},
	"path":     {"an absolute path", filepath.IsAbs},
	"listen":   {"host, any, the name of a port of the card, or an address of the card", func(s string) bool { return s != "" }},
	"text":     {"", func(string) bool { return true }},
	"secret":   {"", func(string) bool { return true }},
}

var (
	hostPattern     = regexp.MustCompile(`^[A-Za-z0-9_:][A-Za-z0-9._:-]{0,252}$`)
	endpointPattern = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9._-]{0,252}|\[[0-9a-fA-F:]+\]):[1-9][0-9]{0,4}$`)
)

func isPrefix(s string) bool { _, err := netip.ParsePrefix(s); return err == nil }

// problem returns what is wrong with the schema itself.
func (s *Schema) problem() error {
	types := []string{"string", "integer", "boolean", "array", "object"}
	if !slices.Contains(types, s.Type) {
		return fmt.Errorf("type %q: want one of %s", s.Type, strings.Join(types, ", "))
	}
	if _, ok := formats[s.Format]; s.Format != "" && (!ok || s.Type != "string") {
		return fmt.Errorf("format %q: want a string, and one of %s", s.Format, strings.Join(slices.Sorted(maps.Keys(formats)), ", "))
	}
	if _, err := regexp.Compile(s.Pattern); err != nil {
		return fmt.Errorf("pattern: %w", err)
	}
	if s.Type == "array" {
		if s.Items == nil {
			return fmt.Errorf("items: missing, want the schema of an entry")
		}
		if err := s.Items.problem(); err != nil {
			return fmt.Errorf("items: %w", err)
		}
	}
	for key, p := range s.Properties {
		if p == nil || !keyPattern.MatchString(key) {
			return fmt.Errorf("properties: %q: want a key with a schema", key)
		}
		if err := p.problem(); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	if s.Default != nil {
		var wrong error
		s.check("default", s.Default, func(at, format string, args ...any) {
			wrong = fmt.Errorf("%s: "+format, append([]any{at}, args...)...)
		})
		return wrong
	}
	return nil
}

// check reports what is wrong with a value of card.yaml.
func (s *Schema) check(at string, v any, report feature.Report) {
	if s.Format == "secret" {
		checkSecret(at, v, report)
		return
	}
	switch v := v.(type) {
	case string:
		s.checkString(at, v, report)
	case int:
		switch {
		case s.Type == "string": // 8080 where a word is wanted
			s.checkString(at, fmt.Sprint(v), report)
		case s.Type != "integer":
			report(at, "%d: want %s", v, s.want())
		case s.Minimum != nil && v < *s.Minimum, s.Maximum != nil && v > *s.Maximum:
			report(at, "%d: want %s", v, s.want())
		}
	case bool:
		if s.Type != "boolean" {
			report(at, "%t: want %s", v, s.want())
		}
	case []any:
		s.checkList(at, v, report)
	case map[string]any:
		s.checkObject(at, v, report)
	default:
		report(at, "%v: want %s", v, s.want())
	}
}

func (s *Schema) checkString(at, v string, report feature.Report) {
	switch {
	case s.Type != "string":
		report(at, "%q: want %s", v, s.want())
	case s.Format != "text" && strings.ContainsFunc(v, unicode.IsControl):
		report(at, "%q: want one line without control characters", v)
	case len(s.Enum) > 0 && !slices.Contains(s.Enum, v):
		report(at, "%q: want %s%s", v, s.want(), suggest.DidYouMean(v, s.Enum...))
	case s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(v), s.Format != "" && !formats[s.Format].ok(v):
		report(at, "%q: want %s", v, s.want())
	}
}

func (s *Schema) checkList(at string, v []any, report feature.Report) {
	if s.Type != "array" {
		report(at, "want %s, not a list", s.want())
		return
	}
	if s.MaxItems > 0 && len(v) > s.MaxItems {
		report(at, "%d entries: want %d at most", len(v), s.MaxItems)
	}
	for i, e := range v {
		s.Items.check(fmt.Sprintf("%s[%d]", at, i), e, report)
	}
}

func (s *Schema) checkObject(at string, v map[string]any, report feature.Report) {
	if s.Type != "object" {
		report(at, "want %s, not keys and values", s.want())
		return
	}
	keys := slices.Sorted(maps.Keys(s.Properties))
	for _, key := range slices.Sorted(maps.Keys(v)) {
		p, ok := s.Properties[key]
		if !ok {
			hint := suggest.DidYouMean(key, keys...)
			if hint == "" {
				hint = "; want one of " + strings.Join(keys, ", ")
			}
			report(at+"."+key, "unknown key %q%s", key, hint)
			continue
		}
		p.check(at+"."+key, v[key], report)
	}
	for _, key := range s.Required {
		if _, ok := v[key]; !ok {
			report(at, "%s is missing: %s", key, s.Properties[key].want())
		}
	}
}

// want describes the accepted values.
func (s *Schema) want() string {
	switch {
	case len(s.Enum) > 0:
		return strings.Join(s.Enum, ", ")
	case s.Format != "" && formats[s.Format].want != "":
		return formats[s.Format].want
	case s.Format == "secret":
		return wantSecret
	case s.Pattern != "":
		return "a match of " + s.Pattern
	case s.Minimum != nil && s.Maximum != nil:
		return fmt.Sprintf("%d to %d", *s.Minimum, *s.Maximum)
	}
	return map[string]string{
		"string": "a word", "integer": "a whole number", "boolean": "true or false", "array": "a list", "object": "keys and values",
	}[s.Type]
}

// fill returns v with defaults. An absent value without a default is empty: "", 0, false, or no entries.
func (s *Schema) fill(v any, secret func(any) (string, error)) (any, error) {
	if s.Format == "secret" {
		return secret(v)
	}
	if v == nil {
		v = s.Default
	}
	switch s.Type {
	case "array":
		list, _ := v.([]any)
		out := make([]any, len(list))
		for i, e := range list {
			var err error
			if out[i], err = s.Items.fill(e, secret); err != nil {
				return nil, err
			}
		}
		return out, nil
	case "object":
		given, _ := v.(map[string]any)
		out := map[string]any{}
		for key, p := range s.Properties {
			var err error
			if out[key], err = p.fill(given[key], secret); err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
		}
		return out, nil
	case "integer", "boolean":
		if v == nil {
			return map[string]any{"integer": 0, "boolean": false}[s.Type], nil
		}
		return v, nil
	}
	if v == nil {
		return "", nil
	}
	return fmt.Sprint(v), nil
}

// json is the schema as draft 2020-12 has it: without the formats that are ours, and closed.
func (s *Schema) json() map[string]any {
	out := map[string]any{"type": s.Type}
	for key, v := range map[string]any{"description": s.Description, "pattern": s.Pattern} {
		if v != "" {
			out[key] = v
		}
	}
	if s.Default != nil {
		out["default"] = s.Default
	}
	if len(s.Enum) > 0 {
		out["enum"] = s.Enum
	}
	if s.Minimum != nil {
		out["minimum"] = *s.Minimum
	}
	if s.Maximum != nil {
		out["maximum"] = *s.Maximum
	}
	switch {
	case s.Format == "secret":
		source := map[string]any{"file": map[string]any{"type": "string"}, "env": map[string]any{"type": "string"}}
		return map[string]any{
			"type": "object", "description": s.Description, "properties": source,
			"additionalProperties": false, "minProperties": 1, "maxProperties": 1,
		}
	case s.Type == "array":
		out["items"] = s.Items.json()
		if s.MaxItems > 0 {
			out["maxItems"] = s.MaxItems
		}
	case s.Type == "object":
		props := map[string]any{}
		for key, p := range s.Properties {
			props[key] = p.json()
		}
		out["properties"], out["additionalProperties"] = props, false
		if len(s.Required) > 0 {
			out["required"] = s.Required
		}
	}
	return out
}
