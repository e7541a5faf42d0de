package agent

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rules is what the firewall depends on: only names, so that it stands
// before the first port is up.
type rules struct {
	links, ports []string
	nat          bool
	ends         bool // connections end on the card
	published    []service
	mdns         bool // multicast DNS may come in
}

// service is what the wire may reach on the card.
type service struct {
	protocol byte
	port     uint16
}

func (r rules) equal(o rules) bool { return fmt.Sprint(r) == fmt.Sprint(o) }

// firewall puts rulesets into force.
type firewall interface {
	apply(rules) error
}

const tableName = "toe"

// mdnsPort is that of RFC 6762, section 3. Who sends from another one is a
// plain resolver, to whom an answer would have to go straight (section 6.7).
const mdnsPort = 5353

// nftFirewall is the kernel's nf_tables.
type nftFirewall struct{}

// apply replaces the table "toe" in one transaction: a packet meets the old
// rules or the new ones, never none. Other tables are an administrator's own.
func (nftFirewall) apply(r rules) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nf_tables: %w", err)
	}
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	c.AddTable(t) // so that the removal finds one
	c.DelTable(t)
	c.AddTable(t)
	input(c, t, r)
	forward(c, t, r)
	if r.nat {
		masquerade(c, t, r)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nf_tables: replace table inet %s: %w", tableName, err)
	}
	return nil
}

// input guards the card itself. The host's side is trusted, tracked or not:
// endpoint mode does not track it. From a port only answers come in, what is
// published, multicast DNS where it is relayed, and what a node must hear:
// ICMP (path MTU, RFC 4890), neighbours and routers in ICMPv6, and the DHCP
// server.
func input(c *nftables.Conn, t *nftables.Table, r rules) {
	ch := filterChain(c, t, "input", nftables.ChainHookInput)
	add := adder(c, t, ch)
	add(established(), accept)
	add(iifname("lo"), accept)
	for _, l := range r.links {
		add(iifname(l), accept)
	}
	for _, p := range r.ports {
		add(iifname(p), protocol(unix.IPPROTO_ICMP), accept)
		add(iifname(p), protocol(unix.IPPROTO_ICMPV6), accept)
		add(iifname(p), protocol(unix.IPPROTO_UDP), udpPorts(67, 68), accept)
		if r.mdns {
			add(iifname(p), meta(expr.MetaKeyPKTTYPE, []byte{unix.PACKET_MULTICAST}), protocol(unix.IPPROTO_UDP), udpPorts(mdnsPort, mdnsPort), accept)
		}
		for _, s := range r.published {
			add(iifname(p), protocol(s.protocol), destination(s.port), accept)
		}
		// The other end of a connection that a card before this one had is
		// told so; a router's connections may go on.
		if r.ends {
			add(iifname(p), protocol(unix.IPPROTO_TCP), untold(), acknowledges(), reset)
		}
	}
}

// forward lets the host out and answers in. Not from link to link either: a
// program that has the card as its only network has no business with the host.
func forward(c *nftables.Conn, t *nftables.Table, r rules) {
	ch := filterChain(c, t, "forward", nftables.ChainHookForward)
	add := adder(c, t, ch)
	for _, p := range r.ports {
		add(oifname(p), protocol(unix.IPPROTO_TCP), syn(), clampMSS())
	}
	add(established(), accept)
	for _, l := range r.links {
		for _, p := range r.ports {
			add(iifname(l), oifname(p), accept)
		}
	}
}

// masquerade hides what comes from the links, and only that: programs on
// the card choose their own source address.
func masquerade(c *nftables.Conn, t *nftables.Table, r rules) {
	ch := c.AddChain(&nftables.Chain{
		Name: "nat", Table: t, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	add := adder(c, t, ch)
	for _, l := range r.links {
		for _, p := range r.ports {
			add(iifname(l), oifname(p), match{&expr.Masq{}})
		}
	}
}

func filterChain(c *nftables.Conn, t *nftables.Table, name string, hook *nftables.ChainHook) *nftables.Chain {
	drop := nftables.ChainPolicyDrop
	return c.AddChain(&nftables.Chain{
		Name: name, Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
}

// match is a part of a rule.
type match []expr.Any

var accept = match{&expr.Verdict{Kind: expr.VerdictAccept}}

func adder(c *nftables.Conn, t *nftables.Table, ch *nftables.Chain) func(...match) {
	return func(parts ...match) {
		var all []expr.Any
		for _, p := range parts {
			all = append(all, p...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: all})
	}
}

func meta(key expr.MetaKey, data []byte) match {
	return match{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
	}
}

func iifname(name string) match { return meta(expr.MetaKeyIIFNAME, ifname(name)) }
func oifname(name string) match { return meta(expr.MetaKeyOIFNAME, ifname(name)) }
func protocol(p byte) match     { return meta(expr.MetaKeyL4PROTO, []byte{p}) }

// ifname pads to IFNAMSIZ: without the padding it would be a prefix match.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func established() match {
	zero := make([]byte, 4)
	return match{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4, Xor: zero,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: zero},
	}
}

// untold matches what connection tracking knows no connection of.
func untold() match {
	zero := make([]byte, 4)
	return match{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4, Xor: zero,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: zero},
	}
}

// reset answers with RST (RFC 9293, section 3.10.7.1).
var reset = match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}

func udpPorts(source, destination uint16) match {
	both := append(binaryutil.BigEndian.PutUint16(source), binaryutil.BigEndian.PutUint16(destination)...)
	return match{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 4},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: both},
	}
}

func destination(port uint16) match {
	return match{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// Flags of TCP (RFC 9293, section 3.1).
const (
	synFlag = 0x02
	rstFlag = 0x04
	ackFlag = 0x10
)

// syn matches TCP segments that open a connection: SYN set, RST not.
func syn() match { return tcpFlags(synFlag|rstFlag, synFlag) }

// acknowledges matches segments of a connection that is open.
func acknowledges() match { return tcpFlags(synFlag|rstFlag|ackFlag, ackFlag) }

// tcpFlags matches segments that have just those of the flags in mask.
func tcpFlags(mask, have byte) match {
	const offset = 13
	return match{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{mask}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{have}},
	}
}

// clampMSS lowers the segment size in the host's SYN to what the port's
// route carries. The host says 65495, for its own wire is the link; a server
// with jumbo frames beside a port of 1500 bytes would believe it, and no
// router stands between them to tell it better.
func clampMSS() match {
	const optionMSS, valueAt, valueLen = 2, 2, 2
	return match{
		&expr.Rt{Register: 1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: 1, Type: optionMSS, Offset: valueAt, Len: valueLen, Op: expr.ExthdrOpTcpopt},
	}
}
