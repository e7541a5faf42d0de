package offload

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const tableName = "toe-offload"

// ruler fills one table.
type ruler struct {
	conn  *nftables.Conn
	table *nftables.Table
}

func (r ruler) chain(name string) *chain {
	return &chain{r, r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table})}
}

func (r ruler) base(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *chain {
	return &chain{r, r.conn.AddChain(&nftables.Chain{
		Name: name, Table: r.table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: priority,
	})}
}

type chain struct {
	ruler
	nft *nftables.Chain
}

func (c *chain) add(parts ...match) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	c.conn.AddRule(&nftables.Rule{Table: c.table, Chain: c.nft, Exprs: all})
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
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	r := ruler{c, &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}}
	c.AddTable(r.table) // so that the removal finds one
	c.DelTable(r.table)
	c.AddTable(r.table)
	r.all(conf, match{&expr.Queue{Num: queueNumber}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nf_tables: replace table inet %s: %w", tableName, err)
	}
	return nil
}

// all makes every chain; hold is what becomes of a first segment.
func (r ruler) all(conf Config, hold match) {
	r.fresh(conf, hold)
	r.host(conf)
	r.take(conf)
	r.wire(conf)
	r.open()
	r.own()
}

func removeRules() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	c.AddTable(t)
	c.DelTable(t)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nf_tables: remove table inet %s: %w", tableName, err)
	}
	return nil
}

func (r ruler) take(conf Config) {
	c := r.base("take", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	for _, link := range conf.Links {
		c.add(from(link), jump("host"))
	}
	if conf.Preserve {
		for _, port := range conf.Ports {
			c.add(from(port), socketOfOurs(), setMark(markLocal), accept)
		}
	}
}

// wire ends what begins on the wire and says that it comes from the card itself
// or from behind a link: a published service would take it for the host, and a
// socket with the card's own address could take what is for another. In IPv4
// the kernel drops the card's own as a source; in IPv6 it lets it in.
func (r ruler) wire(conf Config) {
	forged := r.chain("forged")
	forged.add(sourceOfOurs(), drop)
	for _, link := range conf.Links {
		forged.add(sourceBehind(link), drop)
	}
	c := r.base("wire", nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	for _, port := range conf.Ports {
		c.add(from(port), begins(), jump("forged"))
	}
}

// host is for what comes over a link.
func (r ruler) host(conf Config) {
	c := r.chain("host")
	tcp, udp := protocol(unix.IPPROTO_TCP), protocol(unix.IPPROTO_UDP)
	// What strict reverse path filtering is in IPv4.
	for _, link := range conf.Links {
		for _, p := range []match{tcp, udp} {
			c.add(from(link), p, notFrom6(link), drop)
		}
	}
	// A first segment may meet what is left of an old connection (TIME_WAIT):
	// it opens a new one.
	c.add(tcp, opens(), skip("fresh"))
	c.add(tcp, socketOfOurs(), untrack, setMark(markLocal), accept)
	r.ownWay(c, conf)
	c.add(udp, socketOfOurs(), untrack, setMark(markLocal), accept)
	// ICMP errors of the host, by the packet that they quote: that its
	// program has closed a UDP socket is an error of ours.
	for _, p := range []byte{unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6} {
		c.add(protocol(p), socketOfOurs(), untrack, setMark(markLocal), accept)
	}
	c.add(skip("fresh"))
}

// ownWay leaves datagrams alone that each for itself ask for that. A socket with
// their remote's address may be there: all programs of the host share it. The
// answers of a published service go to their client whatever they ask for.
func (r ruler) ownWay(c *chain, conf Config) {
	udp := protocol(unix.IPPROTO_UDP)
	for _, p := range conf.Publish {
		for _, to := range []netip.AddrPort{p.To4, p.To6} {
			if p.Protocol == "udp" && to.IsValid() {
				c.add(udp, source(to), socketOfOurs(), untrack, setMark(markLocal), accept)
			}
		}
	}
	for _, m := range fewHops() {
		c.add(udp, m, leave)
	}
	for _, v := range conf.Bypass.DSCP {
		for _, m := range dscp(v) {
			c.add(udp, m, leave)
		}
	}
}

// fresh is for what no socket is there for yet. What returns is routed.
func (r ruler) fresh(conf Config, hold match) {
	c := r.chain("fresh")
	tcp, udp := protocol(unix.IPPROTO_TCP), protocol(unix.IPPROTO_UDP)
	c.add(notUnicast(), leave)
	for _, link := range conf.Links {
		c.add(routedTo(link), leave)
	}
	for _, m := range fewHops() {
		c.add(m, leave)
	}
	bypass(c, conf.Bypass)
	c.add(tcp, opens(), untrack, hold)
	c.add(tcp, untrack, answerReset())
	// Who asks for the path's MTU shall have it, from the routers.
	c.add(udp, family(unix.NFPROTO_IPV4), wantsPathMTU(), leave)
	for _, f := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		c.add(udp, untrack, toListener(f))
	}
	// Without a listener: untracked it would leave with the host's address.
	c.add(udp, drop)
}

func bypass(c *chain, b Bypass) {
	for _, r := range b.TCP {
		c.add(protocol(unix.IPPROTO_TCP), destinationPort(r), leave)
	}
	for _, r := range b.UDP {
		c.add(protocol(unix.IPPROTO_UDP), destinationPort(r), leave)
	}
	for _, p := range b.Addresses {
		c.add(destination(p), leave)
	}
	for _, v := range b.DSCP {
		for _, m := range dscp(v) {
			c.add(m, leave)
		}
	}
}

// own is for what our sockets send to the host.
func (r ruler) own() {
	c := r.base("own", nftables.ChainHookOutput, nftables.ChainPriorityRaw)
	for _, erase := range eraseSACK() {
		c.add(protocol(unix.IPPROTO_TCP), marked(markOwn), opens(), erase)
	}
	c.add(marked(markOwn), untrack)
}

// open is for held segments whose verdict has come.
func (r ruler) open() {
	c := r.base("open", nftables.ChainHookPrerouting, nftables.ChainPriorityMangle)
	tcp := protocol(unix.IPPROTO_TCP)
	for _, erase := range eraseSACK() {
		c.add(tcp, marked(markOpen), erase)
	}
	for _, f := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		c.add(tcp, marked(markOpen), toListener(f))
	}
	c.add(tcp, marked(markOpen), drop)
	c.add(tcp, marked(markReset), answerReset())
	// Codes of reject for both families, linux/netfilter/nf_tables.h.
	const noRoute, hostUnreachable, prohibited = 0, 2, 3
	c.add(marked(markNetUnreachable), answerUnreachable(noRoute))
	c.add(marked(markHostUnreachable), answerUnreachable(hostUnreachable))
	c.add(marked(markProhibited), answerUnreachable(prohibited))
}
