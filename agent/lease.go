package agent

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// lease is what a DHCP server said, checked. The server is on the wire and
// not to be trusted with more than its own network.
type lease struct {
	ack    *dhcpv4.DHCPv4
	prefix netip.Prefix
	server netip.Addr
	routes []route
	dns    []netip.Addr
	search []string
	mtu    int // 0: not said
	// start is when the card asked for it, by its leaseClock (RFC 2131, section
	// 4.4.1); time is how long it lasts. At t1 its server is asked for more, at
	// t2 any server.
	start        time.Duration
	time, t1, t2 time.Duration
}

// endless is the lease time that means no end (RFC 2131, section 3.3).
const endless = (1<<32 - 1) * time.Second

const maxLeaseList = 16 // of any list in a lease

func newLease(ack *dhcpv4.DHCPv4, start time.Duration, guarded []netip.Prefix) (*lease, error) {
	l := &lease{ack: ack, start: start}
	addr := v4(ack.YourIPAddr)
	if !unicast(addr) || within(guarded, addr) {
		return nil, fmt.Errorf("DHCP: address %s was offered, want a unicast address outside the link",
			ack.YourIPAddr)
	}
	mask := ack.SubnetMask()
	if mask == nil {
		mask = ack.YourIPAddr.DefaultMask()
	}
	ones, bits := mask.Size()
	if bits != 32 || ones == 0 {
		return nil, fmt.Errorf("DHCP: network mask %s was offered, want one like 255.255.255.0", mask)
	}
	l.prefix = netip.PrefixFrom(addr, ones)
	if l.server = v4(ack.ServerIdentifier()); !unicast(l.server) {
		return nil, fmt.Errorf("DHCP: server identifier %s, want a unicast address",
			ack.ServerIdentifier())
	}
	if err := l.setTimes(ack); err != nil {
		return nil, err
	}
	l.setRoutes(ack, guarded)
	for _, ip := range bound(ack.DNS()) {
		if a := v4(ip); unicast(a) {
			l.dns = append(l.dns, a)
		}
	}
	l.setSearch(ack)
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil && mtu >= 1280 {
		// Less than 1280 would end IPv6 on the port (RFC 8200, section 5).
		l.mtu = int(mtu)
	}
	return l, nil
}

// leastLease: below this the card would do nothing but ask.
const leastLease = 4 * time.Second

// setTimes follows RFC 2131, section 4.4.5. Lease times that make no sense
// together are replaced by the defaults.
func (l *lease) setTimes(ack *dhcpv4.DHCPv4) error {
	l.time = ack.IPAddressLeaseTime(time.Hour)
	if l.time < leastLease {
		return fmt.Errorf("DHCP: lease of %v was offered, want %v at least", l.time, leastLease)
	}
	l.t1 = ack.IPAddressRenewalTime(l.time / 2)
	// An endless lease is 136 years: seven times that is no time.Duration.
	late := l.time / 8 * 7
	l.t2 = ack.IPAddressRebindingTime(late)
	if l.t1 < l.leastPause() || l.t1 >= l.t2 || l.t2 >= l.time {
		l.t1, l.t2 = l.time/2, late
	}
	return nil
}

// leastPause keeps the halving of pauses from ending in a storm: a minute (RFC
// 2131, section 4.4.5), and less where a lease is too short for that.
func (l *lease) leastPause() time.Duration {
	return max(min(l.time/32, time.Minute), time.Second/2)
}

func (l *lease) end() time.Duration { return l.start + l.time }

// turn is the next turning point after a moment: T2, or the end.
func (l *lease) turn(now time.Duration) time.Duration {
	if t2 := l.start + l.t2; now < t2 {
		return t2
	}
	return l.end()
}

// retryAt is half of what is left until the next turning point, and never
// beyond it: what was silent until T2 may be answered by another server then.
func (l *lease) retryAt(now time.Duration) time.Duration {
	turn := l.turn(now)
	return min(now+max((turn-now)/2, l.leastPause()), turn)
}

// lasts is the length of a lease in words for a person.
func lasts(d time.Duration) string {
	if d >= endless {
		return "no end"
	}
	return "for " + d.Round(time.Second).String()
}

// setRoutes takes the classless routes and only without them the router
// (RFC 3442).
func (l *lease) setRoutes(ack *dhcpv4.DHCPv4, guarded []netip.Prefix) {
	list := ack.ClasslessStaticRoute()
	if len(list) == 0 {
		if r := ack.Router(); len(r) > 0 && unicast(v4(r[0])) {
			l.routes = append(l.routes, defaultRoute(v4(r[0]), 0))
		}
		return
	}
	for _, r := range bound(list) {
		via := v4(r.Router)
		onWire := via == netip.IPv4Unspecified()
		if dst := prefix4(r.Dest); dst.IsValid() && !hijacks(dst, guarded) && (unicast(via) || onWire) {
			if onWire {
				via = netip.Addr{}
			}
			l.routes = append(l.routes, route{dst: dst.Masked(), via: via})
		}
	}
}

// hijacks reports whether a route would draw the link's own traffic to the wire.
func hijacks(dst netip.Prefix, guarded []netip.Prefix) bool {
	for _, g := range guarded {
		if dst.Overlaps(g) && dst.Bits() >= g.Bits() {
			return true
		}
	}
	return false
}

func (l *lease) setSearch(ack *dhcpv4.DHCPv4) {
	var names []string
	if list := ack.DomainSearch(); list != nil {
		names = bound(list.Labels)
	}
	if len(names) == 0 && ack.DomainName() != "" {
		names = []string{ack.DomainName()}
	}
	for _, n := range names {
		if plainDomain(n) {
			l.search = append(l.search, n)
		}
	}
}

// plainDomain keeps a server's words from becoming other lines of resolv.conf.
func plainDomain(s string) bool {
	for _, r := range s {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_' {
			return false
		}
	}
	return len(s) > 0 && len(s) < 254
}

func bound[T any](list []T) []T { return list[:min(len(list), maxLeaseList)] }

func v4(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}

func prefix4(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ones, bits := n.Mask.Size()
	if bits != 32 {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(v4(n.IP), ones)
}

func unicast(a netip.Addr) bool {
	return a.Is4() && !a.IsMulticast() && !a.IsLoopback() && a.As4()[0] != 0 && a.As4()[0] < 240
}

// within reports whether any guarded prefix contains the address.
func within(guarded []netip.Prefix, a netip.Addr) bool {
	for _, g := range guarded {
		if g.Contains(a) {
			return true
		}
	}
	return false
}
