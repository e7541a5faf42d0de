package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/ipv6"
)

// advertised is a name server out of a router advertisement.
type advertised struct {
	server netip.Addr
	until  time.Time
}

const (
	icmpRouterAdvertisement = 134
	optRDNSS                = 25 // RFC 8106, section 5.1
	maxAdvertised           = 8
)

// listenAdvertisements hears the router advertisements of all ports and
// calls each with the interface and the name servers in it. The kernel makes
// addresses and routes of them by itself, but not name servers.
func listenAdvertisements(ctx context.Context, found func(ifindex int, servers []advertised)) error {
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
			if err != nil {
				return
			}
			// RFC 4861, section 6.1.2: only a neighbour can send hop limit 255.
			if cm != nil && cm.HopLimit == 255 && linkLocal(from) {
				found(cm.IfIndex, parseRDNSS(buf[:n], time.Now()))
			}
		}
	}()
	return nil
}

func linkLocal(a net.Addr) bool {
	ip, ok := a.(*net.IPAddr)
	return ok && ip.IP.IsLinkLocalUnicast()
}

// parseRDNSS returns the name servers of an advertisement (RFC 4861, section
// 4.2: a header of 16 bytes, then options of type, length in units of eight
// bytes, value). A malformed one has none.
func parseRDNSS(p []byte, now time.Time) []advertised {
	if len(p) < 16 || p[0] != icmpRouterAdvertisement || p[1] != 0 {
		return nil
	}
	var out []advertised
	for p = p[16:]; len(p) >= 8; {
		size := int(p[1]) * 8
		if size == 0 || size > len(p) {
			return nil
		}
		if p[0] == optRDNSS {
			until := now.Add(time.Duration(binary.BigEndian.Uint32(p[4:8])) * time.Second)
			for a := p[8:size]; len(a) >= 16; a = a[16:] {
				server := netip.AddrFrom16([16]byte(a[:16]))
				if len(out) < maxAdvertised && server.IsGlobalUnicast() && !server.Is4In6() {
					out = append(out, advertised{server, until})
				}
			}
		}
		p = p[size:]
	}
	return out
}

// advertise takes in what a router said: what is named again is renewed, and
// what it does not name lives on until its time has come.
func (p *port) advertise(servers []advertised) {
	if !p.accepts(servers) {
		return
	}
	p.changed()
}

func (p *port) accepts(servers []advertised) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.conf.HasRA() {
		return false
	}
	now := time.Now()
	var kept []advertised
	for _, s := range servers {
		if now.Before(s.until) && !within(p.guarded, s.server) {
			kept = append(kept, s)
		}
	}
	for _, old := range p.advDNS {
		if now.Before(old.until) && !named(servers, old.server) && len(kept) < maxAdvertised {
			kept = append(kept, old)
		}
	}
	p.advDNS = kept
	return true
}

func named(list []advertised, server netip.Addr) bool {
	for _, a := range list {
		if a.server == server {
			return true
		}
	}
	return false
}
