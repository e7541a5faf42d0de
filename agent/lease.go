package agent

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// lease is what a DHCP server said, checked. The server is on the wire and
// not to be trusted with more than its own network.
type lease struct {
	raw    *nclient4.Lease
	prefix netip.Prefix
	server netip.Addr
	routes []route
	dns    []netip.Addr
	search []string
	mtu    int // 0: not said
	start  time.Time
	// time is how long it lasts, t1 when its server is to be asked again,
	// t2 when any server is.
	time, t1, t2 time.Duration
}

// endless is the lease time that means no end (RFC 2131, section 3.3).
const endless = (1<<32 - 1) * time.Second

const maxLeaseList = 16 // of any list in a lease

func newLease(raw *nclient4.Lease, guarded []netip.Prefix) (*lease, error) {
	ack := raw.ACK
	l := &lease{raw: raw, start: raw.CreationTime}
	addr := v4(ack.YourIPAddr)
	if !unicast(addr) || within(guarded, addr) {
		return nil, fmt.Errorf("DHCP: address %s was offered, a unicast address outside the link is right", ack.YourIPAddr)
	}
	mask := ack.SubnetMask()
	if mask == nil {
		mask = ack.YourIPAddr.DefaultMask()
	}
	ones, bits := mask.Size()
	if bits != 32 || ones == 0 {
		return nil, fmt.Errorf("DHCP: network mask %s was offered, one like 255.255.255.0 is right", mask)
	}
	l.prefix = netip.PrefixFrom(addr, ones)
	if l.server = v4(ack.ServerIdentifier()); !unicast(l.server) {
		return nil, fmt.Errorf("DHCP: server identifier %s, a unicast address is right", ack.ServerIdentifier())
	}
	l.times(ack)
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

// times follows RFC 2131, section 4.4.5, with a floor.
func (l *lease) times(ack *dhcpv4.DHCPv4) {
	l.time = max(ack.IPAddressLeaseTime(time.Hour), dhcpMinLease)
	l.t1 = ack.IPAddressRenewalTime(l.time / 2)
	// An endless lease is 136 years: seven times that is no time.Duration.
	late := l.time / 8 * 7
	l.t2 = ack.IPAddressRebindingTime(late)
	if l.t1 < dhcpMinLease/2 || l.t1 >= l.t2 || l.t2 >= l.time {
		l.t1, l.t2 = l.time/2, late
	}
}

// lasts says for how long, to a person.
func (l *lease) lasts() string {
	if l.time >= endless {
		return "no end"
	}
	return "for " + l.time.Round(time.Second).String()
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
		if dst := prefix4(r.Dest); dst.IsValid() && !hijacks(dst, guarded) && (unicast(via) || via == netip.IPv4Unspecified()) {
			if via == netip.IPv4Unspecified() {
				via = netip.Addr{} // on the wire itself
			}
			l.routes = append(l.routes, route{dst: dst.Masked(), via: via})
		}
	}
}

// hijacks says whether a route would draw the link's own traffic to the wire.
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
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_' {
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
	return a.Is4() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a.As4()[0] != 0 && a.As4()[0] < 240
}
