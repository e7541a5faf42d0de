package spec

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const ownService = "unit: own.service\nports: [{protocol: tcp, port: \"{{.port}}\"}]\nkeys:\n  port: {type: integer, default: 123}\n  key: {type: string, format: secret}\n"

// load writes a card.yaml with a folder services/own beside it, and loads it.
func load(t *testing.T, text string) (Spec, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"card.yaml": text, "services/own/service.yaml": ownService, "elsewhere/service.yaml": ownService, "key": "s3cret\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Load(filepath.Join(dir, "card.yaml"))
}

// TestServices: paths become absolute, so that the card's own copy of card.yaml means the same.
func TestServices(t *testing.T) {
	s, err := load(t, "firmware: {edition: debian}\nservices:\n  time:\n  own: {port: 8080, key: {file: key}}\n  third: {folder: time}\n")
	if err == nil || !strings.Contains(err.Error(), "card.yaml:5: services.third: ") {
		t.Errorf("a folder that is not there: %v", err)
	}
	s, err = load(t, "firmware: {edition: debian}\nservices:\n  time: {listen: [host]}\n  own: {port: 8080, key: {file: key}}\n")
	if err != nil {
		t.Fatal(err)
	}
	own, _ := s.Services.Find("own")
	file := own.Keys["key"].(map[string]any)["file"].(string)
	if !filepath.IsAbs(own.Folder) || !filepath.IsAbs(file) || !strings.HasSuffix(own.At, "card.yaml:4") {
		t.Errorf("%+v", own)
	}
	text, err := s.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse("again.yaml", text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	for i := range s.Services {
		s.Services[i].At, again.Services[i].At = "", ""
	}
	if !reflect.DeepEqual(s, again) {
		t.Errorf("%+v\nis after a round trip\n%+v", s, again)
	}
	if live, restart := Diff(s, again); len(live)+len(restart) > 0 {
		t.Errorf("%q %q", live, restart)
	}
	without := s
	without.Services = s.Services[1:]
	if live, _ := Diff(s, without); len(live) != 1 || !strings.HasPrefix(live[0], "services.own: {") || !strings.HasSuffix(live[0], " -> none") {
		t.Errorf("%q", live)
	}
}

// TestBadServices: each mistake has its line.
func TestBadServices(t *testing.T) {
	const head = "firmware: {edition: debian}\nports: [{name: wan, addresses: [192.0.2.1/24]}]\nservices:\n"
	for text, want := range map[string]string{
		"services: [time]\n":                                      `card.yaml:1: services: want the names of services, each with its keys, not a list`,
		"services: {time: {}}\n":                                  `card.yaml:1: services.time: firmware.edition micro does not run it; want debian`,
		head + "  tiem: {}\n":                                     `card.yaml:4: services.tiem: no service "tiem"; did you mean "time"?`,
		head + "  Time: {}\n":                                     `card.yaml:4: services: "Time": want a lower-case letter`,
		head + "  time:\n    alow: [any]\n":                       `card.yaml:5: services.time.alow: unknown key "alow"; did you mean "allow"?`,
		head + "  time:\n    stratum: 16\n":                       `card.yaml:5: services.time.stratum: 16: want 1 to 15`,
		head + "  time:\n    servers:\n    - a\n    - b c\n":      `card.yaml:7: services.time.servers[1]: "b c": want a host name or an address`,
		head + "  time: {listen: [192.0.2.2]}\n":                  `card.yaml:4: services.time.listen[0]: "192.0.2.2" is no port and no address of the card; want host, any, wan`,
		head + "  time: {}\n  time: {}\n":                         `card.yaml:5: services: duplicate key "time"`,
		head + "  time: {}\n  own: {port: 123}\n":                 "",
		head + "  own: {port: 80}\npublish: [{port: 80}]\n":       `card.yaml:4: services.own: tcp port 80 is taken by publish[0]`,
		head + "  own: {}\n  b: {folder: elsewhere}\n":            `card.yaml:4: services.own: its unit own.service is that of service b`,
		head + "  own: &a {}\n":                                   `card.yaml:4: services.own: anchors and aliases are not supported`,
		head + "  own: 3\n":                                       `card.yaml:4: services.own: want keys and values, not "3"`,
		head + "  own: {folder: 3}\n":                             `card.yaml:4: services.own.folder: 3: want the path of a folder with service.yaml`,
		head + "  own: {key: {file: /nonexistent/key}}\n":         `card.yaml:4: services.own.key: open /nonexistent/key: no such file or directory`,
		head + "  own: {folder: elsewhere, key: hunter2}\n":       `card.yaml:4: services.own.key: want {file: PATH} or {env: NAME}`,
		head + "  own: {port: 22}\n":                              `card.yaml:4: services.own: tcp port 22 is the card's own ssh`,
		head + "  own: {}\n  b: {folder: elsewhere, port: 123}\n": `services.own: tcp port 123 is taken by services.b`,
	} {
		_, err := load(t, text)
		if want == "" {
			if err != nil {
				t.Errorf("%s: %v", text, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n got %v\nwant %s", text, err, want)
		}
	}
}
