package spec

import (
	"strings"
	"testing"
)

func TestNano(t *testing.T) {
	s, err := Parse("card.yaml", []byte("firmware: {edition: nano}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Machine.Arch != "riscv64" || s.Endpoint() || len(s.Ports) != 1 || len(s.Ports[0].Addresses) != 1 || s.Ports[0].Addresses[0] != AddrDHCP {
		t.Errorf("defaults: %+v", s)
	}
	if s.Row().CPU != "rv64,mmu=off" {
		t.Errorf("board %+v", s.Row())
	}
	for text, want := range map[string]string{
		"offload: {mode: endpoint}":                                       `offload.mode: "endpoint": the nano edition has no endpoint mode`,
		"machine: {arch: amd64}":                                          `machine.arch: "amd64": the nano edition is for riscv64`,
		"machine: {kind: uml}":                                            `machine.kind: "uml": only QEMU's translator has a CPU without MMU`,
		"machine: {cpus: 2}":                                              `machine.cpus: 2: the board of riscv64 takes 1 at most`,
		"link: {queues: 2}":                                               `link.queues: 2: the nano edition has one CPU`,
		"dns: {servers: [192.0.2.53]}":                                    `dns: the nano edition has no resolver`,
		"time: {servers: [ntp.x]}":                                        `time.servers: the nano edition has no clock`,
		"ports: [{name: wan, attach: tap:t0}]":                            `ports[0].addresses: "dhcp": the nano edition has no DHCP`,
		"ports: [{name: wan, attach: tap:t0, addresses: [ra]}]":           `ports[0].addresses: "ra": the nano edition takes no router`,
		"ports: [{name: wan, addresses: [dhcp], dns: [192.0.2.53]}]":      `ports[0].dns: the nano edition has no resolver`,
		"ports: [{name: wan, attach: tap:t0, addresses: [192.0.2.7/24]}]": "",
	} {
		_, err := Parse("card.yaml", []byte("firmware: {edition: nano}\n"+text+"\n"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
