package offload

import (
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/feature"
	"github.com/toe-project/toe/internal/nft"
)

const tableName = "toe-offload"

// Bounds of the set of IPv4 flows that the card serves. A flow is idle for two minutes at most
// (patience). Flows beyond maxServed are served too, with DF or without.
const (
	servedMemory = 150 * time.Second
	maxServed    = 1 << 14
)

// ruler fills one table.
type ruler struct{ nft.Table }

func (r ruler) base(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) nft.Chain {
	return r.Base(nftables.Chain{Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: priority})
}

// applyRules replaces the table of endpoint mode in one transaction. Its
// chains, in the order that a packet meets them:
//
//	raw      take   from a link → host; in preserve mode, answers from the wire
//	         host   packets of an existing socket are delivered to it
//	         fresh  bypassed packets return and are routed. A SYN is held, a
//	                datagram goes to the listener; other TCP has no connection
//	                and is answered with RST
//	mangle   wire   drops new flows from the wire with a forged source
//	         open   a held segment returns with its verdict as its mark
//	output   own    packets of our sockets to the host are not tracked
//
// The SACK option is erased from SYNs between host and card. The link loses nothing, so there is
// nothing to acknowledge selectively; but with SACK a kernel retransmits its last segment when two
// round trips bring no answer (tail loss probe, RFC 8985). A busy card, or one with a slow wire,
// takes longer than that: the host would send 64 KiB twice in vain.
//
// The host's side is not tracked: the sockets are the state. A conntrack table would only cost
// memory and fill up.
func applyRules(conf Config) error {
	return nft.Replace(tableName, func(t nft.Table) {
		ruler{t}.all(conf, nft.Match{&expr.Queue{Num: queueNumber}})
	})
}

// all makes every chain. hold is the statement that holds a SYN.
func (r ruler) all(conf Config, hold nft.Match) {
	served := r.Set("served", servedMemory, maxServed, flowKey...)
	r.fresh(conf, hold, served)
	r.host(conf, served)
	r.take(conf)
	r.wire(conf)
	r.open()
	r.own()
}

func removeRules() error { return nft.Remove(tableName) }

func (r ruler) take(conf Config) {
	c := r.base("take", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	for _, link := range conf.Links {
		c.Add(nft.In(link), nft.Jump("host"))
	}
	if conf.Preserve {
		for _, port := range conf.Ports {
			c.Add(nft.In(port), socketOfOurs(), nft.SetMark(markLocal), nft.Accept)
		}
	}
}

// wire drops new flows from the wire whose source is an address of the card or behind a link: a
// published service would take it for the host, and a socket with the card's own address could
// receive packets meant for another. In IPv4 the kernel drops the card's own addresses as a source;
// in IPv6 it accepts them.
func (r ruler) wire(conf Config) {
	forged := r.Chain("forged")
	forged.Add(sourceOfOurs(), nft.Drop)
	for _, link := range conf.Links {
		forged.Add(sourceBehind(link), nft.Drop)
	}
	c := r.base("wire", nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	for _, port := range conf.Ports {
		c.Add(nft.In(port), begins(), nft.Jump("forged"))
	}
}

// host handles packets from a link.
func (r ruler) host(conf Config, served nft.Set) {
	c := r.Chain("host")
	tcp, udp := nft.Protocol(unix.IPPROTO_TCP), nft.Protocol(unix.IPPROTO_UDP)
	// The equivalent of IPv4's strict reverse path filtering.
	for _, link := range conf.Links {
		for _, p := range []nft.Match{tcp, udp} {
			c.Add(nft.In(link), p, notFrom6(link), nft.Drop)
		}
	}
	// A SYN may match an old connection in TIME_WAIT: it opens a new one.
	c.Add(tcp, opens(), nft.Goto("fresh"))
	c.Add(tcp, socketOfOurs(), nft.Untrack, nft.SetMark(markLocal), nft.Accept)
	r.ownWay(c, conf)
	// A flow that sets DF from its first datagram on is routed, so that it learns the path's MTU
	// from the routers, whatever other programs of the host send to the same remote. Flows that
	// the card serves stay: they have a port on the wire already.
	c.Add(udp, nft.Family(unix.NFPROTO_IPV4), wantsPathMTU(), flow4(), nft.Match{served.Lacks()}, nft.Return)
	c.Add(udp, nft.Family(unix.NFPROTO_IPV4), socketOfOurs(), flow4(), nft.Match{served.Update()}, nft.Untrack, nft.SetMark(markLocal), nft.Accept)
	c.Add(udp, socketOfOurs(), nft.Untrack, nft.SetMark(markLocal), nft.Accept)
	// ICMP errors of the host, matched by the packet that they quote: port unreachable is an error
	// of our socket.
	for _, p := range []byte{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
		c.Add(nft.Protocol(p), socketOfOurs(), nft.Untrack, nft.SetMark(markLocal), nft.Accept)
	}
	c.Add(nft.Goto("fresh"))
}

// ownWay bypasses single datagrams by their TTL or DSCP. A socket with their remote's address may
// exist: all programs of the host share it. Answers of a published service always go to their
// client.
func (r ruler) ownWay(c nft.Chain, conf Config) {
	udp := nft.Protocol(unix.IPPROTO_UDP)
	for _, p := range conf.Publish {
		for _, to := range []netip.AddrPort{p.To4, p.To6} {
			if p.Protocol == "udp" && to.IsValid() {
				c.Add(udp, nft.From(to), socketOfOurs(), nft.Untrack, nft.SetMark(markLocal), nft.Accept)
			}
		}
	}
	for _, m := range fewHops() {
		c.Add(udp, m, nft.Return)
	}
	for _, v := range conf.Bypass.DSCP {
		for _, m := range dscp(uint8(v)) {
			c.Add(udp, m, nft.Return)
		}
	}
}

// fresh handles packets without a socket. A packet that returns is routed.
func (r ruler) fresh(conf Config, hold nft.Match, served nft.Set) {
	c := r.Chain("fresh")
	tcp, udp := nft.Protocol(unix.IPPROTO_TCP), nft.Protocol(unix.IPPROTO_UDP)
	c.Add(notUnicast(), nft.Return)
	for _, link := range conf.Links {
		c.Add(routedTo(link), nft.Return)
	}
	for _, m := range fewHops() {
		c.Add(m, nft.Return)
	}
	bypass(c, conf.Bypass)
	c.Add(tcp, opens(), nft.Untrack, hold)
	c.Add(tcp, nft.Untrack, nft.Reset)
	// The same for a remote without a socket.
	c.Add(udp, nft.Family(unix.NFPROTO_IPV4), wantsPathMTU(), nft.Return)
	c.Add(udp, nft.Family(unix.NFPROTO_IPV4), flow4(), nft.Match{served.Update()})
	for _, f := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		c.Add(udp, nft.Untrack, toListener(f))
	}
	// No listener: untracked, the datagram would leave with the host's address.
	c.Add(udp, nft.Drop)
}

func bypass(c nft.Chain, b feature.Bypass) {
	for _, r := range b.TCP {
		c.Add(nft.Protocol(unix.IPPROTO_TCP), nft.ToPorts(r.First, r.Last), nft.Return)
	}
	for _, r := range b.UDP {
		c.Add(nft.Protocol(unix.IPPROTO_UDP), nft.ToPorts(r.First, r.Last), nft.Return)
	}
	for _, p := range b.Addresses {
		c.Add(nft.To(p.Prefix), nft.Return)
	}
	for _, v := range b.DSCP {
		for _, m := range dscp(uint8(v)) {
			c.Add(m, nft.Return)
		}
	}
}

// own handles packets of our sockets to the host.
func (r ruler) own() {
	c := r.base("own", nftables.ChainHookOutput, nftables.ChainPriorityRaw)
	for _, erase := range eraseSACK() {
		c.Add(nft.Protocol(unix.IPPROTO_TCP), nft.Marked(markOwn), opens(), erase)
	}
	c.Add(nft.Marked(markOwn), nft.Untrack)
}

// open handles held segments after their verdict.
func (r ruler) open() {
	c := r.base("open", nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	tcp := nft.Protocol(unix.IPPROTO_TCP)
	for _, erase := range eraseSACK() {
		c.Add(tcp, nft.Marked(markOpen), erase)
	}
	for _, f := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		c.Add(tcp, nft.Marked(markOpen), toListener(f))
	}
	c.Add(tcp, nft.Marked(markOpen), nft.Drop)
	c.Add(tcp, nft.Marked(markReset), nft.Reset)
	// Codes of reject for both families, linux/netfilter/nf_tables.h.
	const noRoute, hostUnreachable, prohibited = 0, 2, 3
	c.Add(nft.Marked(markNetUnreachable), nft.Unreachable(noRoute))
	c.Add(nft.Marked(markHostUnreachable), nft.Unreachable(hostUnreachable))
	c.Add(nft.Marked(markProhibited), nft.Unreachable(prohibited))
}
