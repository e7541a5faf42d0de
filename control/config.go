package control

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"

	"github.com/toe-project/toe/feature"
)

// MaxConfig bounds the size of a configuration, in bytes.
const MaxConfig = 1 << 20

// LinkMTU is the MTU of every link, in bytes: the largest IPv4 packet.
const LinkMTU = 65535

// The values of Port.Addresses that are not prefixes.
const (
	DHCP = "dhcp" // IPv4 by DHCP (RFC 2131)
	RA   = "ra"   // IPv6 by router advertisements (RFC 4862)
)

// Config is card.json, the card's configuration. The host makes it from
// card.yaml, so people do not type it, but they see its errors.
type Config struct {
	// Version is the format's, ConfigVersion at most. 0 is version 1, which Encode
	// leaves out: a card from before the key knows no other.
	Version int `json:"version,omitempty"`
	// Critical names the keys that the card must know. Encode fills it in.
	Critical []string `json:"critical,omitempty"`
	Name     string   `json:"name"`
	Hostname string   `json:"hostname,omitempty"` // default: Name
	Links    []Link   `json:"links"`
	Ports    []Port   `json:"ports,omitempty"`
	// DNS overrides the name servers that the ports learn.
	DNS    []netip.Addr `json:"dns,omitempty"`
	Search []string     `json:"search,omitempty"`
	// TimeServers are names or addresses of SNTP servers. Without them the card's
	// clock follows the host's.
	TimeServers []string `json:"time_servers,omitempty"`
	Mode        string   `json:"mode"` // ModeRouter or ModeEndpoint
	// NAT gives what is forwarded from the links the ports' addresses as source.
	NAT bool `json:"nat"`
	// Offload and Publish are for endpoint mode.
	Offload Offload   `json:"offload,omitzero"`
	Publish []Publish `json:"publish,omitempty"`
	// AuthorizedKeys may log in by ssh. Each is a line of authorized_keys(5) without
	// options.
	AuthorizedKeys []string `json:"authorized_keys,omitempty"`
	// Updates is what the card does by itself.
	Updates feature.Updates `json:"updates,omitzero"`
	// Firmware is the version that the host started, for Status to repeat.
	Firmware string `json:"firmware,omitempty"`

	// HealthLimit is how long a slot on trial may take to become healthy, in seconds.
	HealthLimit int `json:"health_limit,omitempty"`
	// ZeroTrust: the host may offer and read, and changes nothing. A card that took it once keeps it.
	ZeroTrust bool `json:"zero_trust,omitempty" critical:"true"`
	// Rescue says why no slot of the flash could be started. Empty where one was.
	Rescue string `json:"rescue,omitempty"`
	// Services are programs that the card runs. A card that knows none must not say that it runs them.
	Services []Service `json:"services,omitempty" critical:"true"`

	// Digest and Ignored are about the bytes that ParseConfig read: what Digest
	// makes of them, and the keys that this version does not know.
	Digest  string   `json:"-"`
	Ignored []string `json:"-"`
}

// Link is the card's end of one connection to the host.
type Link struct {
	Name string `json:"name"`
	MAC  string `json:"mac"`
	// Card has this end's addresses, at most one /31 and one /127. Host has the
	// other ends'.
	Card []netip.Prefix `json:"card"`
	Host []netip.Addr   `json:"host"`
}

// Port is a network port of the card, towards the outside.
type Port struct {
	Name string `json:"name"`
	MAC  string `json:"mac"`
	MTU  int    `json:"mtu,omitempty"` // bytes; 0 leaves the device's own
	// Addresses are DHCP, RA or prefixes.
	Addresses []string     `json:"addresses,omitempty"`
	Gateway   []netip.Addr `json:"gateway,omitempty"`
	DNS       []netip.Addr `json:"dns,omitempty"`
}

// Encode returns the configuration as ParseConfig reads it.
func (c *Config) Encode() ([]byte, error) {
	out := *c
	if out.Version == 1 {
		out.Version = 0
	}
	out.Critical = criticalKeys(reflect.ValueOf(out), "")
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("configuration of %q: %w", c.Name, err)
	}
	return append(data, '\n'), nil
}

// EffectiveHostname is the card's host name.
func (c *Config) EffectiveHostname() string {
	if c.Hostname != "" {
		return c.Hostname
	}
	return c.Name
}

// HasDHCP reports whether the port gets an address by DHCP.
func (p *Port) HasDHCP() bool { return p.has(DHCP) }

// HasRA reports whether the port accepts router advertisements.
func (p *Port) HasRA() bool { return p.has(RA) }

func (p *Port) has(word string) bool {
	for _, a := range p.Addresses {
		if a == word {
			return true
		}
	}
	return false
}

// Static returns the prefixes among the port's addresses.
func (p *Port) Static() []netip.Prefix {
	var out []netip.Prefix
	for _, a := range p.Addresses {
		if prefix, err := netip.ParsePrefix(a); err == nil {
			out = append(out, prefix)
		}
	}
	return out
}

// parseMAC accepts only the form that the kernel prints.
func parseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	switch {
	case err != nil || len(mac) != 6:
		return nil, fmt.Errorf("%q: want six bytes such as 02:00:00:00:00:01", s)
	case mac.String() != s:
		return nil, fmt.Errorf("%q: want lower case with colons, %s", s, mac)
	case mac[0]&1 != 0 || strings.Trim(s, "0:") == "":
		return nil, fmt.Errorf("%q: want a unicast address other than zero", s)
	}
	return mac, nil
}
