package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// lease6 is what a DHCPv6 server said, checked. Without an address it is the
// answer to an INFORMATION-REQUEST (RFC 8415, section 18.2.6).
type lease6 struct {
	reply   *dhcpv6.Message
	address netip.Addr
	dns     []netip.Addr
	search  []string
	start   time.Duration // when the card asked, by its leaseClock
	// Since start: t1 when the server is asked again, t2 when any server is, the
	// end of preferred use, and the end.
	t1, t2, preferred, valid time.Duration
}

const (
	// Without an address: RFC 8415, sections 7.6 and 21.23.
	leastRefresh   = 10 * time.Minute
	defaultRefresh = 24 * time.Hour
)

// newLease6 reads a REPLY. The name of the port becomes the zone of link-local
// name servers.
func newLease6(
	m *dhcpv6.Message, start time.Duration, managed bool, port string, guarded []netip.Prefix,
) (*lease6, error) {
	l := &lease6{reply: m, start: start}
	if s := m.Options.Status(); s != nil && s.StatusCode != 0 {
		return nil, fmt.Errorf("DHCPv6: the server says %s", s.StatusCode)
	}
	for _, ip := range bound(m.Options.DNS()) {
		a, ok := netip.AddrFromSlice(ip)
		good := ok && a.Is6() && !a.Is4In6() && (a.IsGlobalUnicast() || a.IsLinkLocalUnicast())
		if !good || within(guarded, a) {
			continue
		}
		if a.IsLinkLocalUnicast() {
			a = a.WithZone(port)
		}
		l.dns = append(l.dns, a)
	}
	if list := m.Options.DomainSearchList(); list != nil {
		for _, d := range bound(list.Labels) {
			if plainDomain(d) {
				l.search = append(l.search, d)
			}
		}
	}
	if !managed {
		l.t1 = max(m.Options.InformationRefreshTime(defaultRefresh), leastRefresh)
		l.t2, l.preferred, l.valid = l.t1, l.t1, l.t1
		return l, nil
	}
	return l, l.setAddress(m, guarded)
}

// setAddress takes the first address of the first IA_NA (RFC 8415, section 21.4).
func (l *lease6) setAddress(m *dhcpv6.Message, guarded []netip.Prefix) error {
	ia := m.Options.OneIANA()
	if ia == nil || m.Options.ServerID() == nil {
		return errors.New("DHCPv6: no address in the answer, or no server identifier")
	}
	if s := ia.Options.Status(); s != nil && s.StatusCode != 0 {
		return fmt.Errorf("DHCPv6: the server says %s", s.StatusCode)
	}
	given := ia.Options.OneAddress()
	if given == nil {
		return errors.New("DHCPv6: no address in the answer")
	}
	a, _ := netip.AddrFromSlice(given.IPv6Addr)
	if !a.Is6() || a.Is4In6() || !a.IsGlobalUnicast() || within(guarded, a) {
		return fmt.Errorf("DHCPv6: address %s was offered, want a unicast address outside the link",
			given.IPv6Addr)
	}
	l.address, l.preferred, l.valid = a, given.PreferredLifetime, given.ValidLifetime
	if l.valid < leastLease || l.preferred > l.valid {
		return fmt.Errorf("DHCPv6: %s was offered for %v, preferred for %v; want %v at least, "+
			"and the second not longer", a, l.valid, l.preferred, leastLease)
	}
	// RFC 8415, section 21.4: 0 leaves them to the client; half and 0.8 are advised.
	l.t1, l.t2 = ia.T1, ia.T2
	if l.t1 < time.Second || l.t1 >= l.t2 || l.t2 >= l.valid {
		base := l.preferred
		if base < 2*time.Second {
			base = l.valid
		}
		l.t1, l.t2 = base/2, base/5*4
	}
	return nil
}

func (l *lease6) end() time.Duration { return l.start + l.valid }

// retryAt is half of what is left until T2, then until the end.
func (l *lease6) retryAt(now time.Duration) time.Duration {
	turn := l.end()
	if t2 := l.start + l.t2; now < t2 {
		turn = t2
	}
	return min(now+max((turn-now)/2, time.Second), turn)
}
