package service

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/toe-project/toe/control"
)

var testWorld = World{
	Name: "card0", Link: []netip.Addr{netip.MustParseAddr("10.116.0.3")}, Host: []netip.Addr{netip.MustParseAddr("10.116.0.2")},
	Ports: []control.Port{{Name: "wan", Addresses: []string{"dhcp"}}, {Name: "lan", Addresses: []string{"192.0.2.1/24"}}},
}

// folder makes a service: service.yaml and its templates.
func folder(t testing.TB, files map[string]string) string {
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const testService = `
packages: [nginx]
unit: nginx.service
ports: [{protocol: tcp, port: "{{.port}}"}]
check: [nginx, -t, -c, "{{.card.dir}}/nginx.conf"]
owner: www-data
keys:
  listen: {type: array, items: {type: string, format: listen}, default: [host]}
  port: {type: integer, minimum: 1, maximum: 65535, default: 8080}
  level: {type: string, enum: [info, warn], default: info}
  names: {type: array, items: {type: string, format: host}, maxItems: 2}
  password: {type: string, format: secret}
  peers:
    type: array
    items:
      type: object
      properties: {address: {type: string, format: address}, key: {type: string, format: secret}}
      required: [address]
`

func TestRender(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TOE_TEST_SECRET", "other")
	d, err := Open("web", folder(t, map[string]string{
		FileName: testService,
		"nginx.conf.tmpl": `{{range .card.bind}}listen {{bracket .}}:{{$.port}}
{{end}}log {{.level}} {{join "," .names}}
{{.native}}`,
		"password.tmpl": "{{.password}} {{range .peers}}{{.address}} {{.key}}{{end}}",
	}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Render(map[string]any{
		"listen": []any{"host", "192.0.2.1"}, "names": []any{"a", "b"}, "native": "gzip on",
		"password": map[string]any{"file": secret},
		"peers":    []any{map[string]any{"address": "::1", "key": map[string]any{"env": "TOE_TEST_SECRET"}}},
	}, testWorld)
	if err != nil {
		t.Fatal(err)
	}
	if want := "listen 127.0.0.1:8080\nlisten 192.0.2.1:8080\nlisten 10.116.0.3:8080\nlog info a,b\ngzip on\n"; s.Files[0].Text != want {
		t.Errorf("got\n%s", s.Files[0].Text)
	}
	if f := s.Files[0]; f.Secret || f.Owner != "" {
		t.Errorf("%+v has no secret", f)
	}
	if f := s.Files[1]; !f.Secret || f.Owner != "www-data" || f.Text != "s3cret ::1 other" || Text(s, f.Text) != "******** ::1 ********" {
		t.Errorf("%+v", f)
	}
	if want := []string{"nginx", "-t", "-c", "/run/toe/service/web/nginx.conf"}; !slices.Equal(s.Check, want) {
		t.Errorf("check %q", s.Check)
	}
	if len(s.Ports) != 1 || s.Ports[0].Port != 8080 || !slices.Equal(s.Ports[0].From, []string{"lan"}) {
		t.Errorf("ports %+v", s.Ports)
	}
}

// TestProblems: what is wrong with the keys is said with the path, the value and what is wanted.
func TestProblems(t *testing.T) {
	d, err := Open("web", folder(t, map[string]string{FileName: testService}))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		keys map[string]any
		want string
	}{
		{map[string]any{}, ""},
		{map[string]any{"prot": 1}, `s.prot: unknown key "prot"; did you mean "port"?`},
		{map[string]any{"port": 70000}, `s.port: 70000: want 1 to 65535`},
		{map[string]any{"port": "http"}, `s.port: "http": want 1 to 65535`},
		{map[string]any{"level": "wran"}, `s.level: "wran": want info, warn; did you mean "warn"?`},
		{map[string]any{"names": "a"}, `s.names: "a": want a list`},
		{map[string]any{"names": []any{"a", "b", "c"}}, `s.names: 3 entries: want 2 at most`},
		{map[string]any{"names": []any{"a b"}}, `s.names[0]: "a b": want a host name or an address`},
		{map[string]any{"listen": []any{"lan", "192.0.2.1", "any"}}, ""},
		{map[string]any{"listen": []any{"192.0.2.2"}}, `s.listen[0]: "192.0.2.2" is no port and no address of the card; want host, any, wan, lan`},
		{map[string]any{"password": "hunter2"}, `s.password: want {file: PATH} or {env: NAME}: a secret is not written into card.yaml`},
		{map[string]any{"password": map[string]any{"file": "/nonexistent"}}, `s.password: open /nonexistent: no such file or directory`},
		{map[string]any{"password": map[string]any{"env": "TOE_NO_SUCH"}}, `s.password: the environment has no TOE_NO_SUCH`},
		{map[string]any{"peers": []any{map[string]any{}}}, `s.peers[0]: address is missing: an address, such as 192.0.2.7`},
		{map[string]any{"level": "a\nb"}, `s.level: "a\nb": want one line without control characters`},
		{map[string]any{"native": "a\nb"}, ""},
	} {
		var got []string
		d.Problems("s", c.keys, testWorld.Ports, func(at, format string, args ...any) {
			got = append(got, at+": "+fmt.Sprintf(format, args...))
		})
		if text := strings.Join(got, "\n"); text != c.want {
			t.Errorf("%v:\n got %s\nwant %s", c.keys, text, c.want)
		}
	}
}

// TestBadFolders: an error names the folder, the file and what is wanted.
func TestBadFolders(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no file":        {nil, "service.yaml"},
		"unknown key":    {map[string]string{FileName: "unit: a.service\nkey: {}\n"}, "line 2: field key not found"},
		"no unit":        {map[string]string{FileName: "title: x\n"}, `unit: "": want the name of a unit`},
		"unknown type":   {map[string]string{FileName: "unit: a.service\nkeys: {a: {type: text}}\n"}, `keys.a: type "text": want one of string`},
		"unknown word":   {map[string]string{FileName: "unit: a.service\nkeys: {a: {type: string, minLength: 1}}\n"}, "minLength not found"},
		"bad default":    {map[string]string{FileName: "unit: a.service\nkeys: {a: {type: integer, maximum: 3, default: 4}}\n"}, "default: 4: want"},
		"bad template":   {map[string]string{FileName: "unit: a.service\n", "a.tmpl": "{{.x"}, "a.tmpl:1: unclosed action"},
		"reserved key":   {map[string]string{FileName: "unit: a.service\nkeys: {native: {type: string}}\n"}, `keys: "native"`},
		"bad package":    {map[string]string{FileName: "unit: a.service\npackages: [-y]\n"}, `packages: "-y"`},
		"bad protocol":   {map[string]string{FileName: "unit: a.service\nports: [{protocol: icmp, port: \"1\"}]\n"}, `ports[0].protocol: "icmp"`},
		"bad file name":  {map[string]string{FileName: "unit: a.service\n", ".hidden.tmpl": ""}, `file ".hidden"`},
		"too large":      {map[string]string{FileName: "unit: a.service\n", "a.tmpl": strings.Repeat("x", maxFile+1)}, "larger than"},
		"keyless schema": {map[string]string{FileName: "unit: a.service\nkeys: {a: }\n"}, "keys.a: want a schema"},
	} {
		dir := folder(t, c.files)
		if _, err := Open("own", dir); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "service own: ") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := Open("tiem", ""); err == nil || !strings.Contains(err.Error(), `did you mean "time"?`) {
		t.Error(err)
	}
}

// TestHidden: what people read has no line of a secret, nor the rest of a longer one.
func TestHidden(t *testing.T) {
	s := control.Service{Hide: append(hidden("line one\nline two\n"), hidden("abc")...)}
	if got := Text(s, "bad: line two; abc"); got != "bad: ********; ********" {
		t.Errorf("%q", got)
	}
}

// TestSymlink: a template is read from the folder, and not from what a link leads to outside.
func TestSymlink(t *testing.T) {
	dir := folder(t, map[string]string{FileName: "unit: a.service\n"})
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "a.tmpl")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open("own", dir); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Error(err)
	}
}

// TestCatalog: each service of the catalogue is whole, and has a page in docs/services.md.
func TestCatalog(t *testing.T) {
	page, err := os.ReadFile("../docs/services.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Names() {
		d, err := Open(name, "")
		if err != nil {
			t.Error(err)
			continue
		}
		if d.Title == "" || len(d.Check) == 0 {
			t.Errorf("%s: title %q, check %q", name, d.Title, d.Check)
		}
		for key, s := range d.Keys {
			if s.Description == "" {
				t.Errorf("%s: key %s has no description", name, key)
			}
		}
		if !strings.Contains(string(page), "\n## "+name+"\n") {
			t.Errorf("docs/services.md has no section %q", name)
		}
		for key := range d.Keys {
			if !strings.Contains(string(page), "`"+key+"`") {
				t.Errorf("docs/services.md: nothing of %s.%s", name, key)
			}
		}
	}
}

// FuzzDefinition: a folder of any content is an error or a service that renders or says why not.
func FuzzDefinition(f *testing.F) {
	f.Add([]byte(testService), "a {{.port}}", "port")
	for _, name := range Names() {
		text, err := catalog.ReadFile("catalog/" + name + "/" + FileName)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "{{range .listen}}{{.}}{{end}}{{.native}}", "native")
	}
	f.Fuzz(func(t *testing.T, text []byte, template, key string) {
		d, err := parse(text)
		if err != nil {
			return
		}
		d.Name, d.templates = "x", map[string]string{"a": template}
		if len(template) > 100 || strings.Contains(template, "range") || d.checkTemplates() != nil {
			return
		}
		keys := map[string]any{key: "1"}
		d.Problems("x", keys, testWorld.Ports, func(_, _ string, _ ...any) {})
		_, _ = d.Render(keys, testWorld)
	})
}
