package agent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/control"
)

// TestAddressHealth: what a port waits for, and what it takes for a fault.
func TestAddressHealth(t *testing.T) {
	got, slaac := new(lease), []netip.Prefix{prefix("2001:db8::77/64")}
	silent := routers{}
	plain, withPrefix, managed := routers{seen: true}, routers{seen: true, prefix: true}, routers{seen: true, managed: true}
	both, dhcp, ra := []string{control.DHCP, control.RA}, []string{control.DHCP}, []string{control.RA}
	nak := errors.New("refused")
	for name, tt := range map[string]struct {
		ways        []string
		have        found
		early, late health
		says        string
	}{
		"DHCP: lease":                  {dhcp, found{lease: got}, healthy, healthy, ""},
		"DHCP: none":                   {dhcp, found{}, starting, degraded, "no DHCP offer"},
		"DHCP: refused":                {dhcp, found{leaseErr: nak}, starting, degraded, "refused"},
		"RA: address":                  {ra, found{addresses: slaac, routers: withPrefix}, healthy, healthy, ""},
		"RA: none":                     {ra, found{}, starting, degraded, "no router advertisement"},
		"RA: without a prefix":         {ra, found{routers: plain}, starting, degraded, "without a prefix came"},
		"RA: DHCPv6 silent":            {ra, found{routers: managed, lease6Err: errors.New("no DHCPv6 answer")}, starting, degraded, "DHCPv6: no DHCPv6 answer"},
		"both: both":                   {both, found{lease: got, addresses: slaac, routers: withPrefix}, healthy, healthy, ""},
		"both: a network without IPv6": {both, found{lease: got, routers: silent}, healthy, healthy, "no IPv6: no router advertisement"},
		"both: a router without a prefix": {
			both, found{lease: got, routers: plain}, healthy, healthy, "no IPv6: a router advertisement without a prefix came"},
		"both: prefix, address soon": {
			both, found{lease: got, routers: withPrefix}, healthy, healthy, "not there yet"},
		"both: prefix, no address": {
			both, found{lease: got, routers: withPrefix, announced: grace}, degraded, degraded, "no address from the advertised prefix"},
		"both: DHCPv6 silent": {
			both, found{lease: got, routers: managed, announced: grace}, degraded, degraded, "DHCPv6"},
		"both: DHCP broken, IPv6 works": {
			both, found{addresses: slaac, routers: withPrefix, leaseErr: nak}, starting, degraded, "refused"},
		"both: nothing": {both, found{}, starting, degraded, "no DHCP offer"},
	} {
		conf := control.Port{Name: "wan", Addresses: tt.ways}
		for late, want := range map[health]health{starting: tt.early, degraded: tt.late} {
			r := addressHealth(reason{state: healthy}, late, conf, tt.have)
			if r.state != want || !strings.Contains(r.detail, tt.says) {
				t.Errorf("%s, %v: %v %q, want %v and %q", name, late, r.state, r.detail, want, tt.says)
			}
		}
	}
	if grace < time.Second {
		t.Error("duplicate address detection takes a second")
	}
}
