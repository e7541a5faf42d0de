package offload

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// match is a part of a rule: conditions, or what to do.
type match []expr.Any

// Registers of nf_tables that rules here use.
const (
	reg1 = unix.NFT_REG32_00
	reg2 = unix.NFT_REG32_04
)

var (
	accept  = match{&expr.Verdict{Kind: expr.VerdictAccept}}
	drop    = match{&expr.Verdict{Kind: expr.VerdictDrop}}
	leave   = match{&expr.Verdict{Kind: expr.VerdictReturn}}
	untrack = match{&expr.Notrack{}}
)

func jump(chain string) match { return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }
func skip(chain string) match { return match{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }

func meta(key expr.MetaKey, data []byte) match {
	return match{&expr.Meta{Key: key, Register: reg1}, equal(data)}
}

func equal(data []byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: data}
}

func unequal(data []byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: reg1, Data: data}
}

func native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

func from(link string) match   { return meta(expr.MetaKeyIIFNAME, ifname(link)) }
func protocol(p byte) match    { return meta(expr.MetaKeyL4PROTO, []byte{p}) }
func family(f byte) match      { return meta(expr.MetaKeyNFPROTO, []byte{f}) }
func marked(mark uint32) match { return meta(expr.MetaKeyMARK, native(mark)) }
func setMark(mark uint32) match {
	return match{
		&expr.Immediate{Register: reg1, Data: native(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1},
	}
}

// ifname pads to IFNAMSIZ: without the padding it would match any name that
// begins so.
func ifname(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// socketOfOurs matches a packet for a transparent socket that is there
// already: a connection, not a listener.
func socketOfOurs() match {
	return match{&expr.Socket{Key: expr.NFT_SOCKET_TRANSPARENT, Register: reg1}, equal([]byte{1})}
}

// network and transport load length bytes at offset of that header.
func network(offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

func transport(offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

func mask(bits ...byte) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: uint32(len(bits)), Mask: bits, Xor: make([]byte, len(bits))}
}

// opens matches a segment that opens a connection: SYN without ACK, RST, FIN.
func opens() match {
	const flags, fin, syn, rst, ack = 13, 0x01, 0x02, 0x04, 0x10
	return match{transport(flags, 1), mask(syn | ack | rst | fin), equal([]byte{syn})}
}

// wantsPathMTU matches IPv4 with the DF bit (RFC 791, section 3.1).
func wantsPathMTU() match {
	return match{network(6, 2), mask(0x40, 0), unequal([]byte{0, 0})}
}

// destinationPort matches a range of ports of TCP or UDP.
func destinationPort(r PortRange) match {
	return match{transport(2, 2), &expr.Range{
		Op: expr.CmpOpEq, Register: reg1,
		FromData: binaryutil.BigEndian.PutUint16(r.First), ToData: binaryutil.BigEndian.PutUint16(r.Last),
	}}
}

// destination matches the addresses of a prefix, in a chain of both families.
func destination(p netip.Prefix) match {
	addr := p.Masked().Addr().AsSlice()
	bits := make([]byte, len(addr))
	for i := range p.Bits() {
		bits[i/8] |= 0x80 >> (i % 8)
	}
	if p.Addr().Is4() {
		return append(family(unix.NFPROTO_IPV4), network(16, 4), mask(bits...), equal(addr))
	}
	return append(family(unix.NFPROTO_IPV6), network(24, 16), mask(bits...), equal(addr))
}

// dscp matches the differentiated services code point (RFC 2474): six bits
// of the second byte in IPv4, and across the first two in IPv6.
func dscp(v uint8) [2]match {
	return [2]match{
		append(family(unix.NFPROTO_IPV4), network(1, 1), mask(0xfc), equal([]byte{v << 2})),
		append(family(unix.NFPROTO_IPV6), network(0, 2), mask(0x0f, 0xc0), equal([]byte{v >> 2, v << 6})),
	}
}

// fewHops matches a time to live that only tools use that look at the path
// (traceroute): programs send with 64 or more.
func fewHops() [2]match {
	below := &expr.Cmp{Op: expr.CmpOpLte, Register: reg1, Data: []byte{32}}
	return [2]match{
		append(family(unix.NFPROTO_IPV4), network(8, 1), below),
		append(family(unix.NFPROTO_IPV6), network(7, 1), below),
	}
}

// notUnicast matches what the card itself, or nobody, or many are the
// destination of.
func notUnicast() match {
	return match{&expr.Fib{Register: reg1, ResultADDRTYPE: true, FlagDADDR: true}, unequal(native(unix.RTN_UNICAST))}
}

// routedTo matches a destination behind an interface.
func routedTo(link string) match {
	return match{&expr.Fib{Register: reg1, ResultOIFNAME: true, FlagDADDR: true}, equal(ifname(link))}
}

// sourceOfOurs matches a source that is an address of the card.
func sourceOfOurs() match {
	return match{&expr.Fib{Register: reg1, ResultADDRTYPE: true, FlagSADDR: true}, equal(native(unix.RTN_LOCAL))}
}

// sourceBehind matches a source that the card would answer by way of an
// interface.
func sourceBehind(link string) match {
	return match{&expr.Fib{Register: reg1, ResultOIFNAME: true, FlagSADDR: true}, equal(ifname(link))}
}

// notFrom6 matches IPv6 whose source is not behind an interface. A link-local
// source says nothing, and who speaks to many may have no other.
func notFrom6(link string) match {
	return append(family(unix.NFPROTO_IPV6),
		network(24, 1), unequal([]byte{0xff}),
		network(8, 2), mask(0xff, 0xc0), unequal([]byte{0xfe, 0x80}),
		&expr.Fib{Register: reg1, ResultOIFNAME: true, FlagSADDR: true}, unequal(ifname(link)))
}

// begins matches the first packets of a connection, or of a flow of datagrams,
// that connection tracking sees.
func begins() match {
	return match{
		&expr.Ct{Key: expr.CtKeySTATE, Register: reg1},
		mask(native(expr.CtStateBitNEW)...), unequal(native(0)),
	}
}

// source matches an address and port of TCP or UDP.
func source(at netip.AddrPort) match {
	ip := append(family(unix.NFPROTO_IPV4), network(12, 4), equal(at.Addr().AsSlice()))
	if !at.Addr().Is4() {
		ip = append(family(unix.NFPROTO_IPV6), network(8, 16), equal(at.Addr().AsSlice()))
	}
	return append(ip, transport(0, 2), equal(binaryutil.BigEndian.PutUint16(at.Port())))
}

// toListener hands a packet to the socket at proxyPort of the loopback.
func toListener(f byte) match {
	addr := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if f == unix.NFPROTO_IPV6 {
		addr = netip.IPv6Loopback()
	}
	all := append(family(f),
		&expr.Immediate{Register: reg1, Data: addr.AsSlice()},
		&expr.Immediate{Register: reg2, Data: binaryutil.BigEndian.PutUint16(proxyPort)},
		&expr.TProxy{Family: f, TableFamily: byte(nftables.TableFamilyINet), RegAddr: reg1, RegPort: reg2},
	)
	return append(append(all, setMark(markLocal)...), accept...)
}

// eraseSACK puts two NOP in the place of the option SACK-permitted (RFC 2018,
// section 2; RFC 9293, section 3.1), where Linux has it: behind the segment
// size, or two bytes later when there is no timestamp. nf_tables has a
// statement that would find it anywhere; its netlink form is not to be had
// from the library, and the host is always Linux.
func eraseSACK() [2]match {
	const checksumAt = 16
	var rules [2]match
	for i, at := range []uint32{24, 26} {
		rules[i] = match{
			transport(at, 2), equal([]byte{4, 2}),
			&expr.Immediate{Register: reg1, Data: []byte{1, 1}},
			&expr.Payload{
				OperationType: expr.PayloadWrite, SourceRegister: reg1, Base: expr.PayloadBaseTransportHeader,
				Offset: at, Len: 2, CsumType: expr.CsumTypeInet, CsumOffset: checksumAt,
			},
		}
	}
	return rules
}

// answerReset and answerUnreachable end a connection that does not come about.
func answerReset() match {
	return match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
}

func answerUnreachable(code uint8) match {
	return match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: code}}
}
