package agent

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/nft"
)

// rules is what the firewall depends on. It has only names of interfaces, so that
// the firewall stands before the first port is up.
type rules struct {
	links, ports []string
	nat          bool
	endpoint     bool // connections terminate on the card
	published    []wirePort
	opened       []openPort // for services of the card
	mdns         bool       // multicast DNS may come in
}

// wirePort is a port of the card that the wire may reach.
type wirePort struct {
	protocol byte
	port     uint16
}

// openPort is a port of the card that one of its interfaces lets in.
type openPort struct {
	from string
	wirePort
}

func (r rules) equal(o rules) bool { return fmt.Sprint(r) == fmt.Sprint(o) }

// firewall puts rulesets into force.
type firewall interface {
	apply(rules) error
}

const tableName = "toe"

// mdnsPort is the port of RFC 6762, section 3. A query from another port is a
// plain resolver's, whose answer must be unicast (section 6.7).
const mdnsPort = 5353

// nftFirewall is the kernel's nf_tables.
type nftFirewall struct{}

// apply replaces the table "toe". Other tables belong to the administrator.
func (nftFirewall) apply(r rules) error {
	return nft.Replace(tableName, func(t nft.Table) {
		input(t, r)
		forward(t, r)
		if r.nat {
			masquerade(t, r)
		}
	})
}

// input guards the card itself. It accepts everything from the host's side,
// tracked or not: endpoint mode does not track it. From a port it accepts
// answers, published services, multicast DNS if it is relayed, and what a node
// needs: ICMP (path MTU, RFC 4890), ICMPv6 of neighbours and routers, and the
// DHCP server.
func input(t nft.Table, r rules) {
	c := filterChain(t, "input", nftables.ChainHookInput)
	c.Add(established(), nft.Accept)
	c.Add(nft.In("lo"), nft.Accept)
	for _, l := range r.links {
		c.Add(nft.In(l), nft.Accept)
	}
	tcp, udp := nft.Protocol(unix.IPPROTO_TCP), nft.Protocol(unix.IPPROTO_UDP)
	for _, p := range r.ports {
		from := nft.In(p)
		c.Add(from, nft.Protocol(unix.IPPROTO_ICMP), nft.Accept)
		c.Add(from, nft.Protocol(unix.IPPROTO_ICMPV6), nft.Accept)
		c.Add(from, udp, nft.Ports(67, 68), nft.Accept)
		// DHCPv6: the reply to a multicast request.
		c.Add(from, udp, nft.Ports(547, 546), nft.Accept)
		if r.mdns {
			multicast := nft.Meta(expr.MetaKeyPKTTYPE, unix.PACKET_MULTICAST)
			c.Add(from, multicast, udp, nft.Ports(mdnsPort, mdnsPort), nft.Accept)
		}
		for _, s := range r.published {
			c.Add(from, nft.Protocol(s.protocol), nft.ToPort(s.port), nft.Accept)
		}
		for _, s := range r.opened {
			if s.from == p {
				c.Add(from, nft.Protocol(s.protocol), nft.ToPort(s.port), nft.Accept)
			}
		}
		// A peer whose connection an earlier life of the card had gets a reset. In
		// router mode connections may go on.
		if r.endpoint {
			acknowledges := nft.Flags(nft.SYN|nft.RST|nft.ACK, nft.ACK)
			c.Add(from, tcp, nft.State(expr.CtStateBitNEW), acknowledges, nft.Reset)
		}
	}
}

// forward lets the host out and answers in. It lets nothing pass from link to
// link: a program whose only network is the card must not reach the host.
func forward(t nft.Table, r rules) {
	c := filterChain(t, "forward", nftables.ChainHookForward)
	opens := nft.Flags(nft.SYN|nft.RST, nft.SYN)
	for _, p := range r.ports {
		c.Add(nft.Out(p), nft.Protocol(unix.IPPROTO_TCP), opens, clampMSS())
	}
	c.Add(established(), nft.Accept)
	for _, l := range r.links {
		for _, p := range r.ports {
			c.Add(nft.In(l), nft.Out(p), nft.Accept)
		}
	}
}

// masquerade hides what comes from the links, and nothing else: programs on the
// card choose their own source address.
func masquerade(t nft.Table, r rules) {
	c := t.Base(nftables.Chain{
		Name: "nat", Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	for _, l := range r.links {
		for _, p := range r.ports {
			c.Add(nft.In(l), nft.Out(p), nft.Masq)
		}
	}
}

func filterChain(t nft.Table, name string, hook *nftables.ChainHook) nft.Chain {
	drop := nftables.ChainPolicyDrop
	return t.Base(nftables.Chain{
		Name: name, Type: nftables.ChainTypeFilter,
		Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &drop,
	})
}

func established() nft.Match {
	return nft.State(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
}

// clampMSS lowers the segment size in the host's SYN to what the port's route
// carries. The host announces 65495, because its interface is the link. A server
// with jumbo frames on the network of a port of 1500 bytes would believe it, and
// there is no router between them to correct it.
func clampMSS() nft.Match {
	const optionMSS, valueAt, valueLen = 2, 2, 2
	return nft.Match{
		&expr.Rt{Register: nft.Reg1, Key: expr.RtTCPMSS},
		&expr.Byteorder{
			SourceRegister: nft.Reg1, DestRegister: nft.Reg1, Op: expr.ByteorderHton, Len: 2, Size: 2,
		},
		&expr.Exthdr{
			SourceRegister: nft.Reg1, Type: optionMSS, Offset: valueAt, Len: valueLen, Op: expr.ExthdrOpTcpopt,
		},
	}
}
