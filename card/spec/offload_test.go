package spec

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/toe-project/toe/feature"
)

const speaking = `name: front
link: {ipv4: 10.116.0.2/31, ipv6: "fd74:6f65::2/127"}
offload:
  mode: endpoint
  source: preserve
  congestion: bbr
  mdns: true
  bypass:
    tcp: [22, "8000-8010"]
    udp: [123]
    addresses: [10.0.0.0/8, 192.0.2.7, "2001:db8::/32"]
    dscp: [cs1, 46, le]
publish:
  - {port: 8080}
  - {port: 8443, to: 443, in: exec, source: card}
  - {protocol: udp, port: 5300, to: 10.116.0.2:53}
  - {port: 90, to: "[2001:db8::7]:80", source: card}
`

func TestOffloadSurvivesNormalising(t *testing.T) {
	spec, err := Parse("card.yaml", []byte(speaking))
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
	for _, want := range []string{"- 22\n", "- 8000-8010\n", "- 192.0.2.7\n", "to: 443\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if got := spec.Offload.Bypass.DSCP; !slices.Equal(got, []feature.DSCP{8, 46, 1}) {
		t.Errorf("DSCP %v", got)
	}
}

func TestOffloadMistakes(t *testing.T) {
	const e = "offload: {mode: endpoint}\n"
	for _, c := range []struct{ name, text, want string }{
		{"mode", "offload: {mode: endpiont}\n", `card.yaml:1: offload.mode: "endpiont": must be endpoint, router; did you mean "endpoint"?`},
		{"source", "offload: {source: keep}\n", `offload.source: "keep": must be masquerade, preserve`},
		{"congestion", "offload: {congestion: vegas}\n", `offload.congestion: "vegas": must be cubic, bbr, reno`},
		{"congestion of a router", "offload: {mode: router, congestion: bbr}\n", `offload.congestion: "bbr": only mode: endpoint`},
		{"key", "offload: {bypas: {}}\n", `unknown key "bypas"; did you mean "bypass"?`},
		{"port", "offload: {bypass: {tcp: [0]}}\n", `offload.bypass.tcp[0]: "0": not a port from 1 to 65535`},
		{"port large", "offload: {bypass: {udp: [65536]}}\n", `offload.bypass.udp[0]: "65536"`},
		{"range", "offload: {bypass: {tcp: [9-8]}}\n", `offload.bypass.tcp[0]: "9-8"`},
		{"range open", "offload: {bypass: {tcp: ['9-']}}\n", `offload.bypass.tcp[0]: "9-"`},
		{"address", "offload: {bypass: {addresses: [example.org]}}\n", `offload.bypass.addresses[0]: "example.org": neither an address`},
		{"host bits", "offload: {bypass: {addresses: [10.1.0.0/8]}}\n", `has bits beyond its prefix length; 10.0.0.0/8 has not`},
		{"dscp", "offload: {bypass: {dscp: [64]}}\n", `offload.bypass.dscp[0]: "64": not a DSCP`},
		{"dscp name", "offload: {bypass: {dscp: [af51]}}\n", `offload.bypass.dscp[0]: "af51"`},
		{"too many", "offload: {bypass: {tcp: [" + strings.Repeat("1, ", 65) + "]}}\n", `offload.bypass.tcp: 65 entries: between 0 and 64`},
		{"mdns of a router", "offload: {mode: router, mdns: true}\n", `offload.mdns: true: only mode: endpoint`},
		{"publish of a router", "offload: {mode: router}\npublish: [{port: 80}]\n", `publish: needs offload.mode: endpoint`},
		{"no port", e + "publish: [{to: 80}]\n", `card.yaml:2: publish[0].port: missing: want 1 to 65535, such as port: 8080`},
		{"port range", e + "publish: [{port: 70000}]\n", `publish[0].port: 70000: between 1 and 65535`},
		{"protocol", e + "publish: [{port: 80, protocol: sctp}]\n", `publish[0].protocol: "sctp": must be tcp, udp`},
		{"in", e + "publish: [{port: 80, in: card}]\n", `publish[0].in: "card": must be host, exec`},
		{"source of it", e + "publish: [{port: 80, source: host}]\n", `publish[0].source: "host": must be client, card`},
		{"twice", e + "publish: [{port: 80}, {port: 80, to: 81}]\n", `publish[1].port: tcp port 80 is published by publish[0] already`},
		{"the card's own", e + "publish: [{port: 22}]\n", `publish[0].port: tcp port 22 is the card's own (ssh); publish another port, with to: 22`},
		{"the relay's", "offload: {mode: endpoint, mdns: true}\npublish: [{port: 5353, protocol: udp}]\n", `publish[0].port: udp port 5353 is the card's own (relay of multicast DNS)`},
		{"no exec", e + "link: {exec: false}\npublish: [{port: 80, in: exec}]\n", `publish[0].in: exec: needs link.exec: true`},
		{"loopback", e + "publish: [{port: 80, to: 127.0.0.1:80}]\n", `publish[0].to: "127.0.0.1:80": the host's kernel drops what an interface receives for a loopback address`},
		{"loopback 6", e + "publish: [{port: 80, to: '[::1]:80', source: card}]\n", `publish[0].to: "[::1]:80": the host's kernel`},
		{"any", e + "publish: [{port: 80, to: 0.0.0.0:80, source: card}]\n", `publish[0].to: "0.0.0.0:80": want a unicast address, or the port only`},
		{"elsewhere", e + "publish: [{port: 80, to: 172.17.0.2:80}]\n", `publish[0].to: "172.17.0.2:80": answers from this address would not come back through the card; write to: 80 for the link's own address, or source: card`},
		{"name", e + "publish: [{port: 80, to: localhost:80}]\n", `publish[0].to: "localhost:80": want a port`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("card.yaml", []byte(c.text))
			var se *Error
			if !errors.As(err, &se) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("said\n%v\nwant it to have\n%s", err, c.want)
			}
		})
	}
	// The same port of two protocols and the link's own address are valid.
	for _, text := range []string{
		e + "publish: [{port: 80}, {port: 80, protocol: udp}]\n",
		e + "link: {ipv4: 10.9.0.0/31}\npublish: [{port: 80, to: 10.9.0.0:8080}]\n",
		"offload: {mode: router, bypass: {tcp: [22]}}\n", // ready for a change of mode
	} {
		if _, err := Parse("card.yaml", []byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestSchemaTakesNumbersAndWords(t *testing.T) {
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"bypass"`, `"publish"`, `"mdns"`, "[aA][fF][1-4]", "endpoint: the card terminates"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("the schema does not have %s", want)
		}
	}
	p := schemaOf(reflect.TypeFor[feature.PortRange]())
	if got := p["type"]; !cmp.Equal(got, []string{"integer", "string"}) {
		t.Errorf("a port range is %v", got)
	}
}
