package spec

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/toe-project/toe/link"
)

func TestEmptyFileIsAWorkingCard(t *testing.T) {
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "{}\n", "machine:\n", "name: card0\n"} {
		got, err := Parse("card.yaml", []byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		want := Default(got.Name)
		if diff := cmp.Diff(show(want), show(got)); diff != "" {
			t.Errorf("%q is not the default card:\n%s", text, diff)
		}
	}
	d := Default("x")
	if d.Machine.Kind != "auto" || d.Machine.CPUs != 1 || d.Machine.Memory != 256*MiB || d.Firmware.Edition != "micro" ||
		len(d.Ports) != 1 || d.Ports[0].Name != "wan" || d.Ports[0].Attach.Kind != AttachUser || d.Link.DefaultRoute || !d.Link.WantExec() {
		t.Errorf("defaults: %s", show(d))
	}
}

const full = `name: edge
machine: {kind: tcg, arch: amd64, cpus: 2, memory: 1GiB}
firmware: {edition: micro}
link:
  interface: toe7
  queues: 2
  spin: 50
  ipv4: 10.116.0.2/31
  ipv6: fd74:6f65::2/127
  default_route: true
  exec: false
ports:
  - {name: wan, attach: bridge:br0, addresses: [dhcp, ra], mtu: 9000}
  - {name: lan, attach: "netns:blue/eth1", addresses: [192.0.2.7/24, "2001:db8::7/64"], gateway: [192.0.2.1], dns: [192.0.2.53]}
offload: {mode: router}
dns: {servers: [192.0.2.53, "2001:db8::53"], search: [example.org]}
time: {servers: [pool.ntp.org]}
ssh: {authorized_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0kZ0wCzHHFGzGxGPnYFcDqEs3T7i0VYX4y0PZl3n9b me@there"]}
`

func TestFullCardSurvivesNormalising(t *testing.T) {
	spec, err := Parse("card.yaml", []byte(full))
	if err != nil {
		t.Fatal(err)
	}
	text, err := spec.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse("normal.yaml", text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if live, restart := Diff(spec, again); len(live)+len(restart) > 0 {
		t.Errorf("normalising changed %v %v:\n%s", live, restart, text)
	}
	if spec.Ports[1].Attach.Device != "eth1" || spec.Link.WantExec() || spec.Machine.Memory != GiB {
		t.Errorf("read wrong: %s", show(spec))
	}
}

func TestMistakesAreNamedWithTheirLine(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "nmae: x\n", `card.yaml:1: unknown key "nmae"; did you mean "name"?`},
		{"unknown key, nothing near", "zebra: x\n", `card.yaml:1: unknown key "zebra"; want one of dns, firmware, link`},
		{"unknown key inside", "machine:\n  kind: auto\n  memroy: 1GiB\n", `card.yaml:3: machine: unknown key "memroy"; did you mean "memory"?`},
		{"unknown key in a list", "ports:\n- name: wan\n- nme: lan\n", `card.yaml:3: ports[1]: unknown key "nme"; did you mean "name"?`},
		{"key twice", "name: a\nname: b\n", `card.yaml:2`},
		{"kind", "machine: {kind: ulm}\n", `card.yaml:1: machine.kind: "ulm": must be auto, kvm, uml, tcg; did you mean "uml"?`},
		{"memory without unit", "machine: {memory: 256}\n", `machine.memory: "256": want a size with a unit`},
		{"memory decimal", "machine: {memory: 256MB}\n", `machine.memory: "256MB": want a size with a unit: KiB, MiB or GiB`},
		{"memory small", "machine: {memory: 1MiB}\n", `machine.memory: 1MiB: between 64MiB and 1024GiB`},
		{"memory huge", "machine: {memory: 2147483647GiB}\n", `between 64MiB and 1024GiB`},
		{"cpus", "machine: {cpus: 0x}\n", `machine.cpus: "0x": want a whole number`},
		{"cpus range", "machine: {cpus: 65}\n", `machine.cpus: 65: between 1 and 64`},
		{"cpus zero", "machine: {cpus: 0}\n", `card.yaml:1: machine.cpus: 0: between 1 and 64`},
		{"cpus negative", "machine: {cpus: -1}\n", `machine.cpus: -1: between 1 and 64`},
		{"cpus huge", "machine: {cpus: 2000000000}\n", `machine.cpus: 2000000000: between 1 and 64`},
		{"cpus beyond any number", "machine: {cpus: 99999999999999999999}\n", `machine.cpus: "99999999999999999999": the number is too large`},
		{"memory zero", "machine: {memory: 0MiB}\n", `machine.memory: "0MiB": between 64MiB and 1024GiB`},
		{"memory negative", "machine: {memory: -1GiB}\n", `machine.memory: "-1GiB": between 64MiB and 1024GiB`},
		{"memory beyond any number", "machine: {memory: 99999999999GiB}\n", `between 64MiB and 1024GiB`},
		{"queues zero", "link: {queues: 0}\n", `link.queues: 0: between 1 and 8`},
		{"mtu zero", "ports: [{name: wan, mtu: 0}]\n", `ports[0].mtu: 0: between 1280 and 65535`},
		{"zero_trust without a flash", "zero_trust: true\n", `zero_trust: edition micro keeps nothing; want firmware: {edition: debian}`},
		{"zero_trust without a key", "zero_trust: true\nfirmware: {edition: debian}\n", `zero_trust: no key could log in`},
		{"kind empty", "machine: {kind: ''}\n", `machine.kind: "": must be auto, kvm, uml, tcg`},
		{"published port zero", "publish: [{port: 0}]\n", `publish[0].port: 0: between 1 and 65535`},
		{"list for a value", "name: [a]\n", `name: want one value, not a list`},
		{"value for a list", "ports: wan\n", `ports: want a list, not "wan"; write [wan]`},
		{"value for a mapping", "machine: uml\n", `machine: want keys and values (arch, cpus, kind, memory), not "uml"`},
		{"bool", "link: {default_route: maybe}\n", `link.default_route: "maybe": want true or false`},
		{"card name", "name: Edge\n", `name: card name "Edge": want 1 to 32 lower-case letters`},
		{"path as name", "name: ../../etc\n", `card name "../../etc"`},
		{"attach", "ports: [{name: wan, attach: brigde:br0}]\n", `ports[0].attach: "brigde:br0": want user, tap:NAME, bridge:NAME, macvtap:DEV or netns:NAME/DEV; did you mean "bridge"?`},
		{"attach name", "ports: [{name: wan, attach: 'tap:'}]\n", `want tap:NAME`},
		{"attach netns", "ports: [{name: wan, attach: 'netns:blue'}]\n", `want netns:NAME/DEV`},
		{"attach netns path", "ports: [{name: wan, attach: 'netns:../dev'}]\n", `netns`},
		{"attach user with more", "ports: [{name: wan, attach: 'user:x'}]\n", `user has no argument`},
		{"port without name", "ports: [{attach: user}]\n", `ports[0]: want a name, such as name: wan`},
		{"port named as a link", "ports: [{name: pci0}]\n", `ports[0].name: "pci0": the card has an interface of this name`},
		{"ports of one name", "ports: [{name: wan}, {name: wan}]\n", `ports[1].name: "wan": duplicate name`},
		{"one tap for two", "ports: [{name: a, attach: 'tap:t'}, {name: b, attach: 'tap:t'}]\n", `ports[1].attach: "tap:t": used by port "a"`},
		{"address", "ports: [{name: wan, addresses: [dchp]}]\n", `ports[0].addresses[0]: "dchp": want dhcp, ra, or an address with a prefix length such as 192.0.2.7/24; did you mean "dhcp"?`},
		{"mtu", "ports: [{name: wan, mtu: 100}]\n", `ports[0].mtu: 100: between 1280 and 65535`},
		{"gateway", "ports: [{name: wan, gateway: [192.0.2.1/24]}]\n", `ports[0].gateway[0]: "192.0.2.1/24"`},
		{"link family", "link: {ipv4: 'fd00::/127'}\n", `link.ipv4: "fd00::/127": wrong address family`},
		{"link length", "link: {ipv4: 10.0.0.0/24}\n", `link.ipv4: "10.0.0.0/24": want a /31: a link has two addresses`},
		{"link odd", "link: {ipv4: 10.0.0.3/31}\n", `link.ipv4: "10.0.0.3/31": want an even first address: "10.0.0.2/31"`},
		{"interface", "link: {interface: much-too-long-a-name}\n", `link.interface: interface name "much-too-long-a-name": want 1 to 15 characters`},
		{"queues", "link: {queues: 9}\n", `link.queues: 9: between 1 and 8`},
		{"spin", "link: {spin: 10001}\n", `link.spin: 10001: between 0 and 10000`},
		{"spin below zero", "link: {spin: -1}\n", `link.spin: -1: between 0 and 10000`},
		{"spin with a unit", "link: {spin: 50us}\n", `link.spin: "50us": want a whole number`},
		{"ssh key", "ssh: {authorized_keys: [hello]}\n", `ssh.authorized_keys[0]: "hello": want a public key`},
		{"anchor", "name: &a x\n", `anchors and aliases are not supported`},
		{"two documents", "name: a\n---\nname: b\n", `want one document`},
		{"no yaml", "a: b: c\n", `mapping values are not allowed`},
		{"tab", "machine:\n\tkind: uml\n", `card.yaml:2: `},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("card.yaml", []byte(c.text))
			var se *Error
			if !errors.As(err, &se) {
				t.Fatalf("error %v, want an Error with %q", err, c.want)
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "card.yaml:") {
				t.Errorf("said\n%v\nwant it to have\n%s", err, c.want)
			}
		})
	}
}

func TestAllMistakesAreShownAtOnce(t *testing.T) {
	_, err := Parse("f", []byte("machine: {kind: x, cpus: 99}\nports: [{name: '', mtu: 1}]\n"))
	var se *Error
	if !errors.As(err, &se) || len(se.Problems) != 4 {
		t.Errorf("%v", err)
	}
	if _, err = Parse("f", []byte("publish: [{port: 0}]\n")); !errors.As(err, &se) || len(se.Problems) != 1 {
		t.Errorf("one mistake: %v", err)
	}
}

func TestSchemaHasEveryKeyAndItsLimits(t *testing.T) {
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	type value struct {
		Enum    []string `json:"enum"`
		Minimum *int     `json:"minimum"`
		Maximum *int     `json:"maximum"`
	}
	var s struct {
		Additional bool `json:"additionalProperties"`
		Properties map[string]struct {
			Properties map[string]value `json:"properties"`
			Items      struct {
				Required   []string         `json:"required"`
				Properties map[string]value `json:"properties"`
			} `json:"items"`
			Description string `json:"description"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"name", "machine", "firmware", "link", "ports", "offload", "publish", "dns", "time", "ssh"} {
		if s.Properties[key].Description == "" {
			t.Errorf("schema says nothing of %s", key)
		}
	}
	if got := s.Properties["machine"].Properties["kind"].Enum; !cmp.Equal(got, []string{"auto", "kvm", "uml", "tcg"}) {
		t.Errorf("machine.kind: %v", got)
	}
	for key, want := range map[string][2]int{"machine.cpus": {1, 64}, "link.queues": {1, 8}, "link.spin": {0, int(link.MaxSpin / time.Microsecond)}, "ports.mtu": {1280, 65535}, "publish.port": {1, 65535}} {
		outer, inner, _ := strings.Cut(key, ".")
		got, found := s.Properties[outer].Properties[inner]
		if !found {
			got = s.Properties[outer].Items.Properties[inner]
		}
		if got.Minimum == nil || got.Maximum == nil || *got.Minimum != want[0] || *got.Maximum != want[1] {
			t.Errorf("%s: from %v to %v, want %v", key, got.Minimum, got.Maximum, want)
		}
	}
	if got := s.Properties["ports"].Items.Required; !cmp.Equal(got, []string{"name"}) {
		t.Errorf("required in a port: %v", got)
	}
	if s.Additional {
		t.Error("unknown keys are allowed")
	}
}

// TestExamplesAreRight: every example, and the README's.
func TestExamplesAreRight(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d examples, %v", len(files), err)
	}
	for _, file := range files {
		if _, err := Load(file); err != nil {
			t.Error(err)
		}
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```yaml\n")
	text, _, found := strings.Cut(rest, "```")
	if _, err := Parse("README.md", []byte(text)); err != nil || !found {
		t.Error(err)
	}
}

// TestKeysThatNeedRoot: they are refused, and not silently of no effect.
func TestKeysThatNeedRoot(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "",
		"link: {queues: 2}\n":           "",
		"link: {default_route: true}\n": "link.default_route: true: needs root",
		"link: {exec: false}\n":         "link.exec: false: needs root",
		"link: {interface: toe5}\n":     "link.interface: toe5: needs root",
	} {
		spec, err := Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := spec.WithoutRoot(); (err != nil) != (want != "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestDiffTellsLiveFromRestart(t *testing.T) {
	from, _ := Parse("a", []byte(full))
	for _, c := range []struct{ from, to, live, restart string }{
		{"cpus: 2", "cpus: 3", "", "machine:"},
		{"edition: micro", "edition: micro, health_limit: 60", "firmware.health_limit:", ""},
		{"edition: micro", "edition: debian", "", "firmware:"},
		{"queues: 2", "queues: 1", "", "link:"},
		{"192.0.2.7/24", "192.0.2.8/24", "ports[lan].addresses:", ""},
		{"attach: bridge:br0", "attach: user", "", "ports[wan].attach:"},
		{"search: [example.org]", "search: [example.net]", "dns:", ""},
		{"  exec: false\n", "", "", "link:"},
		{"name: edge", "name: edge", "", ""},
	} {
		to, err := Parse("b", []byte(strings.Replace(full, c.from, c.to, 1)))
		if err != nil {
			t.Fatal(err)
		}
		live, restart := Diff(from, to)
		if !oneLine(live, c.live) || !oneLine(restart, c.restart) {
			t.Errorf("%q -> %q: live %v, restart %v", c.from, c.to, live, restart)
		}
	}
}

func oneLine(got []string, want string) bool {
	if want == "" {
		return len(got) == 0
	}
	return len(got) == 1 && strings.HasPrefix(got[0], want)
}

// FuzzParse: no input crashes, and what is taken survives being written and
// read again.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"", full, speaking, "ports: []", "ports: [{name: wan}]", "a: &b [*b]", "machine: {memory: 9999999999GiB}",
		"name: \"\\0\"", "? {a: b}\n: c", "<<: {name: x}", "ports:\n- &a {name: x}\n- *a", "!!binary x: y", "name: !!int 3", "- a", "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := Parse("f", data)
		if err != nil {
			return
		}
		text, err := spec.YAML()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("g", text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if live, restart := Diff(spec, again); len(live)+len(restart) > 0 {
			t.Fatalf("changed by writing: %v %v", live, restart)
		}
	})
}
