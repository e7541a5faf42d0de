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

// The set of flows over IPv4 that the card serves. A flow rests two minutes at
// most (patience). What is beyond its size is served too, DF or not.
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
//	         host   what a socket is there for goes up
//	         fresh  what is not ours returns, and is routed. TCP's first
//	                segment is held, a datagram goes to the listener; other
//	                TCP has no connection any more and is answered with RST
//	mangle   wire   what begins on the wire with a source that is not there ends
//	         open   a held segment comes back with a verdict as its mark
//	output   own    what our sockets send to the host is not tracked
//
// In the first segments between host and card the SACK option is erased. The
// link loses nothing, so nothing is there to acknowledge by pieces; but with
// SACK a kernel sends its last segment again when two round trips bring no
// answer (tail loss probe, RFC 8985), and a card that is busy, or whose wire is
// slow, takes longer than that: the host would send 64 KiB twice for nothing.
//
// Connection tracking sees nothing of the host's side: the sockets are the
// state, and a table beside them would only cost memory and fill up.
func applyRules(conf Config) error {
	return nft.Replace(tableName, func(t nft.Table) {
		ruler{t}.all(conf, nft.Match{&expr.Queue{Num: queueNumber}})
	})
}

// all makes every chain; hold is what becomes of a first segment.
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

// wire ends what begins on the wire and says that it comes from the card itself
// or from behind a link: a published service would take it for the host, and a
// socket with the card's own address could take what is for another. In IPv4
// the kernel drops the card's own as a source; in IPv6 it lets it in.
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

// host is for what comes over a link.
func (r ruler) host(conf Config, served nft.Set) {
	c := r.Chain("host")
	tcp, udp := nft.Protocol(unix.IPPROTO_TCP), nft.Protocol(unix.IPPROTO_UDP)
	// What strict reverse path filtering is in IPv4.
	for _, link := range conf.Links {
		for _, p := range []nft.Match{tcp, udp} {
			c.Add(nft.In(link), p, notFrom6(link), nft.Drop)
		}
	}
	// A first segment may meet what is left of an old connection (TIME_WAIT):
	// it opens a new one.
	c.Add(tcp, opens(), nft.Goto("fresh"))
	c.Add(tcp, socketOfOurs(), nft.Untrack, nft.SetMark(markLocal), nft.Accept)
	r.ownWay(c, conf)
	// Who asks for the path's MTU from the first datagram on shall have it, from
	// the routers, whatever other programs of the host send to the same remote.
	// Flows that the card serves stay: on the wire they have a port already.
	c.Add(udp, nft.Family(unix.NFPROTO_IPV4), wantsPathMTU(), flow4(), nft.Match{served.Lacks()}, nft.Return)
	c.Add(udp, nft.Family(unix.NFPROTO_IPV4), socketOfOurs(), flow4(), nft.Match{served.Update()}, nft.Untrack, nft.SetMark(markLocal), nft.Accept)
	c.Add(udp, socketOfOurs(), nft.Untrack, nft.SetMark(markLocal), nft.Accept)
	// ICMP errors of the host, by the packet that they quote: that its
	// program has closed a UDP socket is an error of ours.
	for _, p := range []byte{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
		c.Add(nft.Protocol(p), socketOfOurs(), nft.Untrack, nft.SetMark(markLocal), nft.Accept)
	}
	c.Add(nft.Goto("fresh"))
}

// ownWay leaves datagrams alone that each for itself ask for that. A socket with
// their remote's address may be there: all programs of the host share it. The
// answers of a published service go to their client whatever they ask for.
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

// fresh is for what no socket is there for yet. What returns is routed.
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
	// The same for a remote that no socket is there for.
	c.Add(udp, nft.Family(unix.NFPROTO_IPV4), wantsPathMTU(), nft.Return)
	c.Add(udp, nft.Family(unix.NFPROTO_IPV4), flow4(), nft.Match{served.Update()})
	for _, f := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		c.Add(udp, nft.Untrack, toListener(f))
	}
	// Without a listener: untracked it would leave with the host's address.
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

// own is for what our sockets send to the host.
func (r ruler) own() {
	c := r.base("own", nftables.ChainHookOutput, nftables.ChainPriorityRaw)
	for _, erase := range eraseSACK() {
		c.Add(nft.Protocol(unix.IPPROTO_TCP), nft.Marked(markOwn), opens(), erase)
	}
	c.Add(nft.Marked(markOwn), nft.Untrack)
}

// open is for held segments whose verdict has come.
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
