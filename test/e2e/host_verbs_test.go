package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// TestDoctor checks that each fault found here has a fix.
func TestDoctor(t *testing.T) {
	h := newHost(t)
	r, err := h.try(time.Minute, nil, "doctor", "--json")
	if err != nil {
		t.Fatal(err)
	}
	var said struct {
		OK     bool `json:"ok"`
		Checks []struct{ Name, State, Detail, Fix string }
	}
	if err := json.Unmarshal([]byte(r.out), &said); err != nil {
		t.Fatalf("%v: %s", err, r)
	}
	if said.OK != (r.status == 0) || r.status > 1 {
		t.Errorf("ok is %v with exit status %d", said.OK, r.status)
	}
	found := map[string]string{}
	for _, c := range said.Checks {
		found[c.Name] = c.State
		if c.Detail == "" || c.State == "fail" && c.Fix == "" {
			t.Errorf("%s: %s without words: %+v", c.Name, c.State, c)
		}
	}
	for _, name := range []string{"kvm", "uml", "qemu", "tun", "memory", "disk", "user namespaces", "mirror", "leftovers", "machine"} {
		if found[name] == "" {
			t.Errorf("doctor does not check %s", name)
		}
	}
	for _, name := range []string{"uml", "tun"} {
		if found[name] != "pass" {
			t.Errorf("%s: %s on a machine that runs these tests", name, found[name])
		}
	}
}

func TestSchema(t *testing.T) {
	h := newHost(t)
	var schema struct {
		Schema               string `json:"$schema"`
		Properties           map[string]any
		AdditionalProperties *bool `json:"additionalProperties"`
	}
	if err := json.Unmarshal([]byte(h.run(t, quick, 0, "schema").out), &schema); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"name", "machine", "firmware", "link", "ports", "offload", "dns", "time", "ssh"} {
		if schema.Properties[key] == nil {
			t.Errorf("the schema has no %s", key)
		}
	}
	if schema.Schema == "" || schema.AdditionalProperties == nil || *schema.AdditionalProperties {
		t.Error("the schema does not say what it is, or allows unknown keys")
	}
}

// TestMisuse checks common mistakes on the command line: the exit status, and words that help.
func TestMisuse(t *testing.T) {
	h := newHost(t)
	spec := func(name, text string) string { return h.spec(t, name, text) }
	port := func(name, attach string) string {
		return spec(name, "machine: {kind: uml}\nports: [{name: wan, attach: '"+attach+"', addresses: [192.0.2.2/24]}]\n")
	}
	ip(t, "-n", h.netns, "link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b")
	for _, c := range []struct {
		name   string
		args   []string
		status int
		words  []string
	}{
		{"unknown command", []string{"stauts"}, 2, []string{`"stauts"`, `did you mean "status"`}},
		{"unknown flag", []string{"up", "--jsno"}, 2, []string{"--jsno", `did you mean "json"`}},
		{"unknown word of a command", []string{"completion", "bsh"}, 2, []string{`"bsh"`, `did you mean "bash"`}},
		{"a zero", []string{"up", "-f", spec("zero.yaml", "machine: {cpus: 0}\n")}, 1, []string{"zero.yaml:1", "machine.cpus: 0: between 1 and 64"}},
		{"two names", []string{"down", "a", "b"}, 2, []string{"want at most one NAME, got"}},
		{"which to delete", []string{"rm"}, 2, []string{"which card? want one NAME"}},
		{"name with a slash", []string{"up", "../etc"}, 2, []string{`card name "../etc"`, "lower-case letters"}},
		{"no such card", []string{"status", "nobody"}, 1, []string{"no such card", "toe up nobody"}},
		{"ssh to no card", []string{"ssh", "nobody", "--", "true"}, 1, []string{"no such card"}},
		{"exec without a command", []string{"exec"}, 2, []string{"which command"}},
		{"exec without dashes", []string{"exec", "card0", "ls"}, 2, []string{"after --"}},
		{"exec in no card", []string{"exec", "nobody", "--", "true"}, 1, []string{"no such card"}},
		{"logs of no card", []string{"logs", "nobody"}, 1, []string{"no such card"}},
		{"firmware for nothing", []string{"firmware", "build", "--machine", "vax"}, 2, []string{"vax", "qemu or uml"}},
		{"no such file", []string{"up", "-f", "/te-no-such-file"}, 1, []string{"/te-no-such-file", "no such file"}},
		{"unknown key", []string{"up", "-f", spec("key.yaml", "machine: {kind: uml}\nlnik: {queues: 1}\n")}, 1,
			[]string{"key.yaml:2", `lnik`, `did you mean "link"`}},
		{"wrong kind", []string{"up", "-f", spec("kind.yaml", "machine:\n  kind: umll\n")}, 1, []string{"kind.yaml:2", "umll", `did you mean "uml"`}},
		{"memory without a unit", []string{"up", "-f", spec("memory.yaml", "machine: {memory: 256}\n")}, 1, []string{"memory.yaml:1", "MiB"}},
		{"link of the wrong size", []string{"up", "-f", spec("link.yaml", "link: {ipv4: 10.0.0.0/24}\n")}, 1, []string{"link.yaml:1", "/31"}},
		{"no such namespace", []string{"up", "-f", port("netns.yaml", "netns:te-none/wan0")}, 1, []string{"te-none", "ip netns add"}},
		{"no such bridge", []string{"up", "-f", port("bridge.yaml", "bridge:te-br0")}, 1, []string{"no interface te-br0"}},
		{"not a bridge", []string{"up", "-f", port("veth.yaml", "bridge:veth-a")}, 1, []string{"veth-a is not a bridge"}},
		{"not a tap", []string{"up", "-f", port("tap.yaml", "tap:veth-a")}, 1, []string{"veth-a", "not a tap"}},
		{"no such lower device", []string{"up", "-f", port("macvtap.yaml", "macvtap:veth-c")}, 1, []string{"no interface veth-c"}},
		{"interface that is there", []string{"up", "-f", spec("busy.yaml", "machine: {kind: uml}\nports: []\nlink: {interface: veth-a}\n")}, 1,
			[]string{"interface veth-a exists already"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := h.run(t, 30*time.Second, c.status, c.args...)
			for _, w := range c.words {
				if !strings.Contains(r.err, w) {
					t.Errorf("toe %s: the error has no %q: %s", strings.Join(c.args, " "), w, r.err)
				}
			}
		})
	}
}
