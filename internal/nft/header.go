package nft

import (
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Flags of TCP (RFC 9293, section 3.1).
const (
	FIN = 0x01
	SYN = 0x02
	RST = 0x04
	ACK = 0x10
)

// Flags has just those of the flags in mask.
func Flags(mask, have byte) Match {
	const offset = 13
	return Match{Transport(offset, 1), Mask(mask), Equal(have)}
}

// Ports are the source and the destination of TCP or UDP.
func Ports(source, destination uint16) Match {
	return Match{Transport(0, 4), Equal(append(port(source), port(destination)...)...)}
}

// ToPort is a destination port of TCP or UDP, ToPorts a range of them.
func ToPort(p uint16) Match { return Match{Transport(2, 2), Equal(port(p)...)} }

// ToPorts is a range with its ends.
func ToPorts(first, last uint16) Match {
	if first == last {
		return ToPort(first)
	}
	return Match{Transport(2, 2), &expr.Range{Op: expr.CmpOpEq, Register: Reg1, FromData: port(first), ToData: port(last)}}
}

func port(p uint16) []byte { return binaryutil.BigEndian.PutUint16(p) }

// To is a destination in a prefix; the packet may be of either family.
func To(p netip.Prefix) Match {
	addr := p.Masked().Addr().AsSlice()
	bits := make([]byte, len(addr))
	for i := range p.Bits() {
		bits[i/8] |= 0x80 >> (i % 8)
	}
	if p.Addr().Is4() {
		return append(Family(unix.NFPROTO_IPV4), Network(16, 4), Mask(bits...), Equal(addr...))
	}
	return append(Family(unix.NFPROTO_IPV6), Network(24, 16), Mask(bits...), Equal(addr...))
}

// From is the source address and port of TCP or UDP; the packet may be of
// either family.
func From(at netip.AddrPort) Match {
	ip := append(Family(unix.NFPROTO_IPV4), Network(12, 4), Equal(at.Addr().AsSlice()...))
	if !at.Addr().Is4() {
		ip = append(Family(unix.NFPROTO_IPV6), Network(8, 16), Equal(at.Addr().AsSlice()...))
	}
	return append(ip, Transport(0, 2), Equal(port(at.Port())...))
}
