package support

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// removed stands where a secret was.
const removed = "[removed]"

// secretKey is what a setting is called whose value is a secret.
const secretKey = `(?:passw(?:or)?d|passphrase|secret|psk|pre-?_?shared-?_?key|private-?_?key|api-?_?key|token|credentials?|authorization)`

var keyPattern = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?i)` + secretKey) })

// pattern is a form that secrets have, and what is put in their place.
type pattern struct {
	find *regexp.Regexp
	put  string
}

// patterns find secrets in text. Where one has no clear end, it takes the rest of the line.
var patterns = sync.OnceValue(func() []pattern {
	return []pattern{
		// Private keys in PEM: whole, without their end, and without their beginning.
		{regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?-----END [A-Z0-9 ]*PRIVATE KEY-----`), removed},
		{regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[A-Za-z0-9+/=\s\\]*`), removed + "\n"},
		{regexp.MustCompile(`[A-Za-z0-9+/=\s\\]*-----END [A-Z0-9 ]*PRIVATE KEY-----`), "\n" + removed},
		// YAML's values of several lines.
		{regexp.MustCompile(`(?im)^([ \t-]*["']?[\w.-]*` + secretKey + `[\w.-]*["']?[ \t]*:[ \t]*[|>][+\d-]*[ \t]*\n)((?:[ \t]+[^\n]*\n?|[ \t]*\n)+)`), "${1}  " + removed + "\n"},
		// key: value, key=value, also in quoted JSON, and --key value.
		{regexp.MustCompile(`(?i)(` + secretKey + `[\w.-]*\\?["']?[ \t]*[:=][ \t]*)[^\s|>][^\n]*`), "${1}" + removed},
		{regexp.MustCompile(`(?i)(--?[\w-]*` + secretKey + `[ \t]+)[^\n]*`), "${1}" + removed},
		{regexp.MustCompile(`(?i)(\b(?:bearer|basic)[ \t]+)[A-Za-z0-9+/=._~-]{8,}`), "${1}" + removed},
		// The user and the password of a URL, up to the last @.
		{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s"'<>]*@`), "${1}" + removed + "@"},
		// Password hashes, as in /etc/shadow.
		{regexp.MustCompile(`\$(?:[0-9][a-z]?|y|gy|argon2[a-z]*)\$[^\s:"']+`), removed},
	}
})

// Redactor takes secrets out: those that it knows by their bytes, and what looks like one.
type Redactor struct{ known [][]byte }

// shortest is the length in bytes at which a line of a key is taken for a secret by itself.
const shortest = 12

// Learn makes the files of a folder of keys known. Certificates and public keys are not secret.
func (r *Redactor) Learn(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		public := strings.HasSuffix(e.Name(), ".pub") || bytes.Contains(data, []byte("-----BEGIN CERTIFICATE-----"))
		if err != nil || public && !bytes.Contains(data, []byte("PRIVATE KEY")) {
			continue
		}
		for line := range bytes.Lines(data) {
			if line = bytes.TrimSpace(line); len(line) >= shortest && !bytes.HasPrefix(line, []byte("-----")) {
				r.known = append(r.known, line)
			}
		}
	}
}

// Text is a text without secrets.
func (r *Redactor) Text(text []byte) []byte {
	for _, secret := range r.known {
		text = bytes.ReplaceAll(text, secret, []byte(removed))
	}
	for _, p := range patterns() {
		text = p.find.ReplaceAll(text, []byte(p.put))
	}
	return text
}

// JSON is a JSON document without secrets, indented. What is no JSON is a text.
func (r *Redactor) JSON(data []byte) []byte { return r.document(data, "  ") }

func (r *Redactor) document(data []byte, indent string) []byte {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil || dec.More() {
		return r.Text(data)
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetIndent("", indent)
	enc.SetEscapeHTML(false)
	if enc.Encode(r.value(v)) != nil {
		return r.Text(data)
	}
	return out.Bytes()
}

// Lines is a file of one JSON document a line.
func (r *Redactor) Lines(data []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(data) {
		out.Write(r.document(line, ""))
	}
	return out.Bytes()
}

func (r *Redactor) value(v any) any {
	switch v := v.(type) {
	case string:
		return string(r.Text([]byte(v)))
	case []any:
		for i := range v {
			v[i] = r.value(v[i])
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, value := range v {
			if keyPattern().MatchString(key) {
				value = removed
			}
			out[string(r.Text([]byte(key)))] = r.value(value)
		}
		return out
	}
	return v
}
