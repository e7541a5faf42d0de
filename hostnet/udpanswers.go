package hostnet

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/nft"
)

// udpAnswers is a table of nf_tables that rewrites the source address of answers
// of the host's UDP services to the link's.
//
// A service that is bound to 0.0.0.0 or :: sends without a source address. The
// kernel then takes the address of the route to the client, which is the host's
// default route: the client did not ask that address. An ip rule by source port
// would match answers to clients that came by another way, too. So a set keeps
// what came through the link (client, its port, the service's port). An answer to
// one of them gets the link's address before connection tracking, and the kernel
// routes it again, by the rule of returnRoute.
//
// On a host without a route to the client, sendto(2) fails with ENETUNREACH
// before the table sees a packet.
type udpAnswers struct {
	Table     string       `json:"table"`     // of nf_tables, family inet
	Interface string       `json:"interface"` // the link's
	From      []netip.Addr `json:"from"`      // the host's addresses of the link
}

const (
	// udpMemory is how long a client is remembered after its last datagram, or
	// the last answer. RFC 4787, section 4.3 wants two minutes at least.
	udpMemory = 3 * time.Minute
	// udpClients bounds the set of each family.
	udpClients = 65535
)

// udpTable is the name of a card's table. Tables last until the host restarts.
func udpTable(card string) string {
	sum := sha256.Sum256([]byte(card))
	return "toe-udp-" + hex.EncodeToString(sum[:4])
}

func (u *udpAnswers) Make() error {
	return nft.Replace(u.Table, func(t nft.Table) {
		in := t.Base(nftables.Chain{
			Name: "in", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityMangle,
		})
		out := t.Base(nftables.Chain{
			Name: "out", Type: nftables.ChainTypeRoute,
			Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityRaw,
		})
		for _, from := range u.From {
			f := udpFamilyOf(from)
			port := nftables.TypeInetService
			clients := t.Set(f.name, udpMemory, udpClients, f.addr, port, port)
			udp := append(nft.Family(f.proto), nft.Protocol(unix.IPPROTO_UDP)...)
			ours := from.AsSlice()
			in.Add(nft.In(u.Interface), udp, nft.Match{nft.Network(f.dst, f.length), nft.Equal(ours...)},
				f.key(f.src, 0, 2), nft.Match{clients.Update()})
			out.Add(udp, nft.Match{nft.Network(f.src, f.length), nft.Unequal(ours...)},
				f.key(f.dst, 2, 0), nft.Match{clients.Holds(), clients.Update()}, f.setSource(ours))
		}
	})
}

func (u *udpAnswers) Undo() error { return nft.Remove(u.Table) }
func (u *udpAnswers) Lasts() bool { return false }

// udpFamily is where addresses are in the header of a family: RFC 791, RFC 8200.
type udpFamily struct {
	name             string
	proto            byte
	addr             nftables.SetDatatype
	src, dst, length uint32 // bytes
	// checksum is where the header's checksum is. IPv6 has none, but the library
	// sends no checksum flags without one: there it is the low half of the flow
	// label (RFC 6437), which becomes another one for the flow.
	checksum uint32
}

func udpFamilyOf(a netip.Addr) udpFamily {
	if a.Is4() {
		return udpFamily{"clients4", unix.NFPROTO_IPV4, nftables.TypeIPAddr, 12, 16, 4, 10}
	}
	return udpFamily{"clients6", unix.NFPROTO_IPV6, nftables.TypeIP6Addr, 8, 24, 16, 2}
}

// key loads an address and two ports of the UDP header into adjacent registers.
func (f udpFamily) key(addr, port, other uint32) nft.Match {
	next := nft.Reg1 + f.length/4
	load := func(reg, offset uint32) expr.Any {
		p := nft.Transport(offset, 2)
		p.DestRegister = reg
		return p
	}
	return nft.Match{nft.Network(addr, f.length), load(next, port), load(next+1, other)}
}

// setSource writes the source address, and corrects the checksums.
func (f udpFamily) setSource(a []byte) nft.Match {
	write := &expr.Payload{
		OperationType: expr.PayloadWrite, SourceRegister: nft.Reg1, Base: expr.PayloadBaseNetworkHeader,
		Offset: f.src, Len: f.length,
		CsumType: expr.CsumTypeInet, CsumOffset: f.checksum, CsumFlags: unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR,
	}
	return nft.Match{&expr.Immediate{Register: nft.Reg1, Data: a}, write}
}
