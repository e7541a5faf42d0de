package service

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/toe-project/toe/control"
)

// The zones of the key listen, besides the names of ports and the card's own addresses.
const (
	zoneHost = "host" // the link: the host, and toe exec
	zoneAny  = "any"  // the host and each port
)

// listed are the entries of a list of words.
func listed(v any) []string {
	var out []string
	list, _ := v.([]any)
	for _, e := range list {
		out = append(out, fmt.Sprint(e))
	}
	return out
}

func names(ports []control.Port) string {
	out := ""
	for _, p := range ports {
		out += ", " + p.Name
	}
	return out
}

func isZone(z string, ports []control.Port) bool {
	return z == zoneHost || z == zoneAny || portOf(z, ports) != ""
}

// portOf returns the port that a zone is, or is an address of.
func portOf(z string, ports []control.Port) string {
	a, err := netip.ParseAddr(z)
	for _, p := range ports {
		if p.Name == z {
			return p.Name
		}
		for _, own := range p.Static() {
			if err == nil && own.Addr() == a {
				return p.Name
			}
		}
	}
	return ""
}

// reachedFrom returns the ports of the card behind which a service is reached. The firewall opens
// them. The host reaches every service of its card.
func reachedFrom(zones []string, ports []control.Port) []string {
	var out []string
	for _, p := range ports {
		in := func(z string) bool { return z == zoneAny || portOf(z, ports) == p.Name }
		if slices.ContainsFunc(zones, in) {
			out = append(out, p.Name)
		}
	}
	return out
}

// bind returns the addresses that a program listens on. A port's own may change, so a zone of ports
// is all addresses, and the firewall decides. Loopback is there for the card's own programs.
func bind(zones []string, w World) []any {
	var out []any
	for _, z := range zones {
		if a, err := netip.ParseAddr(z); err == nil {
			out = append(out, a.String())
		} else if z != zoneHost {
			return []any{"0.0.0.0", "::"}
		}
	}
	if slices.Contains(zones, zoneHost) {
		out = append(out, addresses(w.Link)...)
	}
	return append([]any{"127.0.0.1"}, out...)
}

// Text is a file as people may read it: without secrets.
func Text(s control.Service, text string) string {
	for _, h := range s.Hide {
		text = strings.ReplaceAll(text, h, Hidden)
	}
	return text
}
