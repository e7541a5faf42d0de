// Package spec is the specification of a card: card.yaml, read, checked,
// written, compared, and described as a JSON schema. It knows nothing of the
// host that the card runs on.
package spec

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/toe-project/toe/feature"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/suggest"
)

// Spec is card.yaml. Everything has a default: the empty file is a working
// card. The struct tags, which package feature explains, are the one source of
// the parser, the defaults, the checks, the JSON schema and the documentation.
type Spec struct {
	Name     string          `yaml:"name,omitempty" doc:"the card's name: lower-case letters, digits and dashes" absent:"card0"`
	Machine  Machine         `yaml:"machine,omitempty" doc:"what runs the card's CPU"`
	Firmware Firmware        `yaml:"firmware,omitempty" doc:"what runs on the card"`
	Link     Link            `yaml:"link,omitempty" doc:"the connection between host and card: raw IP packets, MTU 65535, fixed"`
	Ports    []Port          `yaml:"ports" doc:"the card's network ports, towards the outside; an empty list is a card without any" absent:"one port, wan, attach user"`
	Offload  Offload         `yaml:"offload,omitempty" doc:"what the card does with the host's traffic"`
	Publish  []Publish       `yaml:"publish,omitempty" doc:"services of the host that the card publishes on the wire; endpoint mode"`
	DNS      DNS             `yaml:"dns,omitempty" doc:"the resolvers that the card asks"`
	Time     Time            `yaml:"time,omitempty" doc:"the card's clock"`
	Updates  feature.Updates `yaml:"updates,omitempty" doc:"what the card updates by itself, once a day; edition debian"`
	// ZeroTrust is about the host that reads this file.
	ZeroTrust bool     `yaml:"zero_trust,omitempty" doc:"from its first start on the card takes no change from this host: it may offer firmware and read; edition debian" default:"false"`
	SSH       SSH      `yaml:"ssh,omitempty" doc:"keys that may log in to the card"`
	Services  Services `yaml:"services,omitempty" doc:"programs that the card runs, by name; edition debian"`
}

// Machine is the hardware.
type Machine struct {
	Kind   string `yaml:"kind,omitempty" enum:"auto|kvm|uml|tcg" doc:"auto: kvm if a guest really runs, else uml if its kernel is built, else tcg" default:"auto"`
	Arch   Arch   `yaml:"arch,omitempty" doc:"the card's architecture, by Debian's name" absent:"that of the host"`
	CPUs   int    `yaml:"cpus,omitempty" min:"1" max:"64" doc:"number of CPUs" default:"1"`
	Memory Memory `yaml:"memory,omitempty" doc:"RAM of the card, such as 256MiB or 1GiB" default:"256MiB"`
}

// Arch is Debian's name of an architecture.
type Arch string

// UnmarshalText checks the name.
func (a *Arch) UnmarshalText(text []byte) error {
	if _, err := arch.Find(string(text)); err != nil {
		return fmt.Errorf("want one of %s%s", strings.Join(arch.Names(), ", "), arch.Suggest(string(text)))
	}
	*a = Arch(text)
	return nil
}

// Row returns what is known of the architecture. It must be valid.
func (a Arch) Row() arch.Arch {
	row, _ := arch.Find(string(a))
	return row
}

// Firmware is the software.
type Firmware struct {
	Edition     string `yaml:"edition,omitempty" enum:"micro|debian|nano" doc:"micro: kernel, agent and busybox; debian: a whole Debian 13 on a disk; nano: for a CPU without MMU, router mode only" default:"micro"`
	Flash       Memory `yaml:"flash,omitempty" doc:"size of the card's disk, which is made at its first start and takes space as it fills; edition debian" default:"4GiB"`
	HealthLimit int    `yaml:"health_limit,omitempty" min:"5" max:"3600" doc:"how long a new slot may take to become healthy before it is given up, in seconds; edition debian" default:"120"`
}

// Link is the host's side of the link.
type Link struct {
	Interface    string `yaml:"interface,omitempty" doc:"name of the host's interface; root only" absent:"the first free of toe0, toe1, …"`
	Queues       int    `yaml:"queues,omitempty" min:"1" max:"8" doc:"queue pairs" default:"1"`
	Spin         int    `yaml:"spin,omitempty" min:"0" max:"10000" doc:"how long after a packet the pump looks for the next one before it sleeps, in µs; takes a CPU of the host meanwhile" default:"0"`
	IPv4         Prefix `yaml:"ipv4,omitempty" doc:"the link's /31: the even address is the host's, the odd one the card's" absent:"one of its own out of 10.116.0.0/16"`
	IPv6         Prefix `yaml:"ipv6,omitempty" doc:"the link's /127: the even address is the host's, the odd one the card's" absent:"one of its own out of fd74:6f65::/32"`
	DefaultRoute bool   `yaml:"default_route,omitempty" doc:"send the host's own traffic through the card, and its name resolution; both are put back at down; root only" default:"false"`
	Exec         *bool  `yaml:"exec,omitempty" doc:"keep a network namespace for toe exec, whose only network is the card" default:"true"`
}

// Port is one network port of the card.
type Port struct {
	Name      string       `yaml:"name" required:"true" doc:"the interface's name on the card, such as wan"`
	Attach    Attach       `yaml:"attach" doc:"user | tap:NAME | bridge:NAME | macvtap:DEV | netns:NAME/DEV" default:"user"`
	Addresses []PortAddr   `yaml:"addresses" doc:"dhcp, ra (IPv6 router advertisements), or addresses with prefix length such as 192.0.2.7/24" absent:"[dhcp, ra]"`
	Gateway   []netip.Addr `yaml:"gateway,omitempty" doc:"default gateways of static addresses"`
	DNS       []netip.Addr `yaml:"dns,omitempty" doc:"resolvers reached through this port"`
	MTU       int          `yaml:"mtu,omitempty" min:"1280" max:"65535" doc:"MTU of the port in bytes" default:"1500"`
}

// DNS overrides what the ports learn.
type DNS struct {
	Servers []netip.Addr `yaml:"servers,omitempty" doc:"upstream resolvers" absent:"those the ports learn"`
	Search  []string     `yaml:"search,omitempty" doc:"search domains"`
}

// Time is the card's clock.
type Time struct {
	Servers []string `yaml:"servers,omitempty" doc:"NTP servers, names or addresses" absent:"none: the card's clock starts from the host's"`
}

// SSH lists the keys that may log in.
type SSH struct {
	AuthorizedKeys []string `yaml:"authorized_keys,omitempty" doc:"public keys, one a line of authorized_keys(5)" absent:"the public keys in ~/.ssh of the user who creates the card"`
}

// Memory is a size in bytes, written with a binary unit.
type Memory int64

// Units of Memory, in bytes.
const (
	KiB Memory = 1 << 10
	MiB Memory = 1 << 20
	GiB Memory = 1 << 30
)

// UnmarshalText reads 256MiB.
func (m *Memory) UnmarshalText(text []byte) error {
	s := string(text)
	for _, u := range []struct {
		suffix string
		unit   Memory
	}{{"KiB", KiB}, {"MiB", MiB}, {"GiB", GiB}} {
		digits, ok := strings.CutSuffix(s, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 32)
		if n <= 0 && err == nil || errors.Is(err, strconv.ErrRange) {
			return fmt.Errorf("between %s and %s", minMemory, maxMemory)
		}
		if err != nil {
			return fmt.Errorf("not a whole number of %s", u.suffix)
		}
		*m = Memory(n) * u.unit
		return nil
	}
	return fmt.Errorf("want a size with a unit: KiB, MiB or GiB, such as 256MiB")
}

// MarshalText writes the largest unit that divides the size.
func (m Memory) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

func (m Memory) String() string {
	switch {
	case m == 0:
		return "0MiB"
	case m%GiB == 0:
		return fmt.Sprintf("%dGiB", m/GiB)
	case m%MiB == 0:
		return fmt.Sprintf("%dMiB", m/MiB)
	default:
		return fmt.Sprintf("%dKiB", m/KiB)
	}
}

// Prefix is an IP prefix that may be absent.
type Prefix struct{ netip.Prefix }

// IsZero makes yaml leave an absent prefix out.
func (p Prefix) IsZero() bool { return !p.IsValid() }

// UnmarshalText reads 10.116.0.2/31.
func (p *Prefix) UnmarshalText(text []byte) error {
	v, err := netip.ParsePrefix(string(text))
	if err != nil {
		return fmt.Errorf("want an address with a prefix length, such as 10.116.0.2/31")
	}
	p.Prefix = v
	return nil
}

// PortAddr is dhcp, ra or an address with its prefix length.
type PortAddr string

// Values of PortAddr that are no address.
const (
	AddrDHCP PortAddr = "dhcp"
	AddrRA   PortAddr = "ra"
)

// UnmarshalText checks the form.
func (a *PortAddr) UnmarshalText(text []byte) error {
	s := string(text)
	if s != string(AddrDHCP) && s != string(AddrRA) {
		if _, err := netip.ParsePrefix(s); err != nil {
			return fmt.Errorf("want dhcp, ra, or an address with a prefix length such as 192.0.2.7/24%s", suggest.DidYouMean(s, "dhcp", "ra"))
		}
	}
	*a = PortAddr(s)
	return nil
}

// AttachKind is the part of Attach before the colon.
type AttachKind string

// The ways to attach a port.
const (
	AttachUser    AttachKind = "user"
	AttachTAP     AttachKind = "tap"
	AttachBridge  AttachKind = "bridge"
	AttachMacvtap AttachKind = "macvtap"
	AttachNetns   AttachKind = "netns"
)

// Attach describes what a port is attached to.
type Attach struct {
	Kind   AttachKind
	Name   string // interface, bridge or lower device
	Device string // netns only: the device in namespace Name
}

var (
	_ encoding.TextUnmarshaler = (*Attach)(nil)
	_ encoding.TextMarshaler   = Attach{}
)

// UnmarshalText reads user, tap:NAME, bridge:NAME, macvtap:DEV or netns:NAME/DEV.
func (a *Attach) UnmarshalText(text []byte) error {
	s := string(text)
	kind, rest, _ := strings.Cut(s, ":")
	got := Attach{Kind: AttachKind(kind)}
	switch got.Kind {
	case AttachUser:
		if s != "user" {
			return fmt.Errorf("user has no argument")
		}
	case AttachTAP, AttachBridge, AttachMacvtap:
		got.Name = rest
		if err := CheckInterface(rest); err != nil {
			return fmt.Errorf("want %s:NAME: %w", kind, err)
		}
	case AttachNetns:
		ns, dev, ok := strings.Cut(rest, "/")
		if !ok || ns == "" || strings.ContainsAny(ns, "/\x00 ") || ns == "." || ns == ".." {
			return fmt.Errorf("want netns:NAME/DEV")
		}
		if err := CheckInterface(dev); err != nil {
			return fmt.Errorf("want netns:NAME/DEV: %w", err)
		}
		got.Name, got.Device = ns, dev
	default:
		return fmt.Errorf("want user, tap:NAME, bridge:NAME, macvtap:DEV or netns:NAME/DEV%s",
			suggest.DidYouMean(kind, "user", "tap", "bridge", "macvtap", "netns"))
	}
	*a = got
	return nil
}

// MarshalText is the inverse of UnmarshalText.
func (a Attach) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func (a Attach) String() string {
	switch a.Kind {
	case AttachUser, "":
		return "user"
	case AttachNetns:
		return "netns:" + a.Name + "/" + a.Device
	default:
		return string(a.Kind) + ":" + a.Name
	}
}

// WantExec reports whether the card keeps a namespace for toe exec.
func (l Link) WantExec() bool { return l.Exec == nil || *l.Exec }
