package offload

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/nft"
)

// socketOfOurs matches a packet for an existing transparent socket: a connection, not a listener.
func socketOfOurs() nft.Match {
	return nft.Match{&expr.Socket{Key: expr.NFT_SOCKET_TRANSPARENT, Register: nft.Reg1}, nft.Equal(1)}
}

// opens matches a segment that opens a connection: SYN without ACK, RST, FIN.
func opens() nft.Match { return nft.Flags(nft.SYN|nft.ACK|nft.RST|nft.FIN, nft.SYN) }

// wantsPathMTU matches IPv4 with the DF bit (RFC 791, section 3.1).
func wantsPathMTU() nft.Match {
	return nft.Match{nft.Network(6, 2), nft.Mask(0x40, 0), nft.Unequal(0, 0)}
}

// flow4 loads the key of a flow of UDP over IPv4: addresses and ports, as in flowKey.
func flow4() nft.Match {
	ports := nft.Transport(0, 4)
	ports.DestRegister = nft.Reg1 + 2 // behind the addresses
	return nft.Match{nft.Network(12, 8), ports}
}

var flowKey = []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeIPAddr, nftables.TypeMark}

// dscp matches the differentiated services code point (RFC 2474): six bits of the second byte in
// IPv4, and across the first two bytes in IPv6.
func dscp(v uint8) [2]nft.Match {
	return [2]nft.Match{
		append(nft.Family(unix.NFPROTO_IPV4), nft.Network(1, 1), nft.Mask(0xfc), nft.Equal(v<<2)),
		append(nft.Family(unix.NFPROTO_IPV6), nft.Network(0, 2), nft.Mask(0x0f, 0xc0), nft.Equal(v>>2, v<<6)),
	}
}

// fewHops matches a time to live of 32 or less, as used by tools that probe the path (traceroute).
// Programs send with 64 or more.
func fewHops() [2]nft.Match {
	below := &expr.Cmp{Op: expr.CmpOpLte, Register: nft.Reg1, Data: []byte{32}}
	return [2]nft.Match{
		append(nft.Family(unix.NFPROTO_IPV4), nft.Network(8, 1), below),
		append(nft.Family(unix.NFPROTO_IPV6), nft.Network(7, 1), below),
	}
}

// notUnicast matches a destination that is the card itself, has no route, or is multicast or
// broadcast.
func notUnicast() nft.Match {
	return nft.Match{&expr.Fib{Register: nft.Reg1, ResultADDRTYPE: true, FlagDADDR: true}, nft.Unequal(nft.Native(unix.RTN_UNICAST)...)}
}

// routedTo matches a destination routed to an interface.
func routedTo(link string) nft.Match {
	return nft.Match{&expr.Fib{Register: nft.Reg1, ResultOIFNAME: true, FlagDADDR: true}, nft.Equal(nft.Name(link)...)}
}

// sourceOfOurs matches a source that is an address of the card.
func sourceOfOurs() nft.Match {
	return nft.Match{&expr.Fib{Register: nft.Reg1, ResultADDRTYPE: true, FlagSADDR: true}, nft.Equal(nft.Native(unix.RTN_LOCAL)...)}
}

// sourceBehind matches a source whose return route is an interface.
func sourceBehind(link string) nft.Match {
	return nft.Match{&expr.Fib{Register: nft.Reg1, ResultOIFNAME: true, FlagSADDR: true}, nft.Equal(nft.Name(link)...)}
}

// notFrom6 matches IPv6 whose source is not behind an interface. Multicast destinations are exempt,
// because their sender may have a link-local address only. So are link-local sources: they do not
// identify an interface.
func notFrom6(link string) nft.Match {
	return append(nft.Family(unix.NFPROTO_IPV6),
		nft.Network(24, 1), nft.Unequal(0xff),
		nft.Network(8, 2), nft.Mask(0xff, 0xc0), nft.Unequal(0xfe, 0x80),
		&expr.Fib{Register: nft.Reg1, ResultOIFNAME: true, FlagSADDR: true}, nft.Unequal(nft.Name(link)...))
}

// begins matches the first packets of a connection or a flow of datagrams, in the state NEW of
// connection tracking.
func begins() nft.Match { return nft.State(expr.CtStateBitNEW) }

// toListener passes a packet to the socket at proxyPort of the loopback address.
func toListener(f byte) nft.Match {
	addr := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if f == unix.NFPROTO_IPV6 {
		addr = netip.IPv6Loopback()
	}
	all := append(nft.Family(f),
		&expr.Immediate{Register: nft.Reg1, Data: addr.AsSlice()},
		&expr.Immediate{Register: nft.Reg2, Data: binaryutil.BigEndian.PutUint16(proxyPort)},
		&expr.TProxy{Family: f, TableFamily: byte(nftables.TableFamilyINet), RegAddr: nft.Reg1, RegPort: nft.Reg2},
	)
	return append(append(all, nft.SetMark(markLocal)...), nft.Accept...)
}

// eraseSACK replaces the option SACK-permitted (RFC 2018, section 2; RFC 9293, section 3.1) with
// two NOPs, where Linux puts it: after the maximum segment size, or two bytes later without a
// timestamp. nf_tables has a statement that finds it anywhere, but the library does not support its
// netlink form, and the host is always Linux.
func eraseSACK() [2]nft.Match {
	const checksumAt = 16
	var rules [2]nft.Match
	for i, at := range []uint32{24, 26} {
		rules[i] = nft.Match{
			nft.Transport(at, 2), nft.Equal(4, 2),
			&expr.Immediate{Register: nft.Reg1, Data: []byte{1, 1}},
			&expr.Payload{
				OperationType: expr.PayloadWrite, SourceRegister: nft.Reg1, Base: expr.PayloadBaseTransportHeader,
				Offset: at, Len: 2, CsumType: expr.CsumTypeInet, CsumOffset: checksumAt,
			},
		}
	}
	return rules
}
