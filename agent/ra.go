package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/ipv6"
)

// advertisement is what a router advertised (RFC 4861, section 4.2) that the
// kernel leaves to programs: name servers, search domains, and whether DHCPv6
// has addresses (M) or anything else (O).
type advertisement struct {
	managed, other bool
	prefix         bool // the kernel makes an address of it
	servers        []advertised[netip.Addr]
	domains        []advertised[string]
}

// advertised is a value and for how long it is good.
type advertised[T comparable] struct {
	value    T
	lifetime time.Duration
}

const (
	icmpRouterAdvertisement = 134
	raHeader                = 16
	optPrefix               = 3  // RFC 4861, section 4.6.2
	optRDNSS                = 25 // RFC 8106, section 5.1
	optDNSSL                = 31 // RFC 8106, section 5.2
	maxAdvertised           = 8  // of servers, and of domains
)

// listenAdvertisements hears the router advertisements of all ports and
// calls found with the interface and what is in them. The kernel makes
// addresses and routes of them by itself, and nothing else.
func listenAdvertisements(ctx context.Context, found func(ifindex int, a *advertisement)) error {
	conn, err := net.ListenPacket("ip6:ipv6-icmp", "::")
	if err != nil {
		return fmt.Errorf("router advertisements: %w", err)
	}
	pc := ipv6.NewPacketConn(conn)
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	if err = pc.SetICMPFilter(&filter); err == nil {
		err = pc.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagInterface, true)
	}
	if err != nil {
		_ = conn.Close()
		return fmt.Errorf("router advertisements: socket option: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, cm, from, err := pc.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // of this packet, or for want of memory
				time.Sleep(100 * time.Millisecond)
				continue
			}
			// RFC 4861, section 6.1.2: only a neighbour can send hop limit 255.
			if cm == nil || cm.HopLimit != 255 || !linkLocal(from) {
				continue
			}
			if a := parseAdvertisement(buf[:n]); a != nil {
				found(cm.IfIndex, a)
			}
		}
	}()
	return nil
}

func linkLocal(a net.Addr) bool {
	ip, ok := a.(*net.IPAddr)
	return ok && ip.IP.IsLinkLocalUnicast()
}

// parseAdvertisement reads a header of 16 bytes and options of type, length in
// units of eight bytes, and value. It returns nil for a malformed one, which
// RFC 4861, section 6.1.2, drops as a whole.
func parseAdvertisement(p []byte) *advertisement {
	if len(p) < raHeader || p[0] != icmpRouterAdvertisement || p[1] != 0 {
		return nil
	}
	a := &advertisement{managed: p[5]&0x80 != 0, other: p[5]&0x40 != 0}
	for p = p[raHeader:]; len(p) > 0; {
		if len(p) < 8 {
			return nil
		}
		size := int(p[1]) * 8
		if size == 0 || size > len(p) {
			return nil
		}
		a.option(p[0], p[:size])
		p = p[size:]
	}
	return a
}

// option takes in one option, of eight bytes at least.
func (a *advertisement) option(kind byte, p []byte) {
	switch kind {
	case optPrefix: // A flag and a valid lifetime other than 0
		if len(p) == 32 && p[3]&0x40 != 0 && binary.BigEndian.Uint32(p[4:]) != 0 {
			a.prefix = true
		}
	case optRDNSS:
		for s := p[8:]; len(s) >= 16; s = s[16:] {
			server := netip.AddrFrom16([16]byte(s[:16]))
			good := server.IsGlobalUnicast() || server.IsLinkLocalUnicast()
			if good && !server.Is4In6() && len(a.servers) < maxAdvertised {
				a.servers = append(a.servers, advertised[netip.Addr]{server, lifetime(p)})
			}
		}
	case optDNSSL:
		for _, d := range parseDomains(p[8:]) {
			if len(a.domains) < maxAdvertised {
				a.domains = append(a.domains, advertised[string]{d, lifetime(p)})
			}
		}
	}
}

func lifetime(option []byte) time.Duration {
	return time.Duration(binary.BigEndian.Uint32(option[4:])) * time.Second
}

// parseDomains reads names as RFC 1035, section 3.1, encodes them, uncompressed
// and padded with zeros (RFC 8106, section 5.2). It returns none if one is
// malformed, and leaves out what does not belong into resolv.conf.
func parseDomains(p []byte) []string {
	var out, labels []string
	for len(p) > 0 {
		n := int(p[0])
		if n > 63 || 1+n > len(p) {
			return nil
		}
		if n > 0 {
			labels = append(labels, string(p[1:1+n]))
		} else if len(labels) > 0 {
			if d := strings.Join(labels, "."); plainDomain(d) {
				out = append(out, d)
			}
			labels = nil
		}
		p = p[1+n:]
	}
	if len(labels) > 0 {
		return nil
	}
	return out
}

// learned are values that routers advertised, and until when each is good, by
// the port's clock.
type learned[T comparable] []learnedValue[T]

type learnedValue[T comparable] struct {
	value T
	until time.Duration
}

// merge takes in an advertisement. A value that is named again is renewed, or
// ended by a lifetime of 0; one that is not named stays until its time has come.
func (l learned[T]) merge(list []advertised[T], now time.Duration) learned[T] {
	var out learned[T]
	for _, a := range list {
		if a.lifetime > 0 && !slices.Contains(out.values(now), a.value) {
			out = append(out, learnedValue[T]{a.value, now + a.lifetime})
		}
	}
	for _, old := range l {
		named := slices.ContainsFunc(list, func(a advertised[T]) bool { return a.value == old.value })
		if !named && now < old.until && len(out) < maxAdvertised {
			out = append(out, old)
		}
	}
	return out
}

func (l learned[T]) values(now time.Duration) []T {
	var out []T
	for _, v := range l {
		if now < v.until {
			out = append(out, v.value)
		}
	}
	return out
}

// routers is what the routers on a port have advertised since its carrier came.
type routers struct {
	seen           bool
	managed, other bool
	prefix         bool
	since          time.Duration // of the last change of these, by the port's clock
	servers        learned[netip.Addr]
	domains        learned[string]
}

// advertise takes in what a router said.
func (p *port) advertise(a *advertisement) {
	if p.takeIn(a) {
		p.changed()
	}
}

func (p *port) takeIn(a *advertisement) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.conf.HasRA() {
		return false
	}
	now, r := p.clock.now(), &p.routers
	var servers []advertised[netip.Addr]
	for _, s := range a.servers {
		if s.value.IsLinkLocalUnicast() { // it means nothing without the port
			s.value = s.value.WithZone(p.conf.Name)
		}
		if !within(p.guarded, s.value) {
			servers = append(servers, s)
		}
	}
	r.servers = r.servers.merge(servers, now)
	r.domains = r.domains.merge(a.domains, now)
	prefix := r.prefix || a.prefix
	if !r.seen || r.managed != a.managed || r.other != a.other || r.prefix != prefix {
		r.seen, r.managed, r.other, r.prefix, r.since = true, a.managed, a.other, prefix, now
		close(p.router)
		p.router = make(chan struct{})
	}
	return true
}

// routerComes is closed at the first advertisement after a carrier, and when a
// later one asks for something else.
func (p *port) routerComes() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.router
}

func (p *port) routerSeen() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.routers.seen
}
