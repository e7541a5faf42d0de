package nft

import (
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers that rules use. A condition loads something into the first and
// compares it there.
const (
	Reg1 = unix.NFT_REG32_00
	Reg2 = unix.NFT_REG32_04
)

// What becomes of a packet.
var (
	Accept  = Match{&expr.Verdict{Kind: expr.VerdictAccept}}
	Drop    = Match{&expr.Verdict{Kind: expr.VerdictDrop}}
	Return  = Match{&expr.Verdict{Kind: expr.VerdictReturn}}
	Untrack = Match{&expr.Notrack{}}
	Masq    = Match{&expr.Masq{}}
	// Reset answers with RST (RFC 9293, section 3.10.7.1).
	Reset = Match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}
)

// Jump comes back when the other chain has ended, Goto does not.
func Jump(chain string) Match { return Match{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}} }

// Goto goes on with another chain.
func Goto(chain string) Match { return Match{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }

// Unreachable answers with an ICMP error of either family; code is one of
// NFT_REJECT_ICMPX_*.
func Unreachable(code uint8) Match {
	return Match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: code}}
}

// Equal compares the first register.
func Equal(data ...byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: Reg1, Data: data}
}

// Unequal compares the first register.
func Unequal(data ...byte) *expr.Cmp {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: Reg1, Data: data}
}

// Mask leaves these bits of the first register.
func Mask(bits ...byte) *expr.Bitwise {
	return &expr.Bitwise{SourceRegister: Reg1, DestRegister: Reg1, Len: uint32(len(bits)), Mask: bits, Xor: make([]byte, len(bits))}
}

// Network loads length bytes at offset of the network header.
func Network(offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: Reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length}
}

// Transport loads length bytes at offset of the transport header.
func Transport(offset, length uint32) *expr.Payload {
	return &expr.Payload{DestRegister: Reg1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: length}
}

// Meta compares what the kernel knows about a packet.
func Meta(key expr.MetaKey, data ...byte) Match {
	return Match{&expr.Meta{Key: key, Register: Reg1}, Equal(data...)}
}

// In and Out are interfaces by name.
func In(link string) Match { return Meta(expr.MetaKeyIIFNAME, Name(link)...) }

// Out is the interface that a packet leaves by.
func Out(link string) Match { return Meta(expr.MetaKeyOIFNAME, Name(link)...) }

// Protocol is that of the transport header, IPPROTO_TCP say.
func Protocol(p byte) Match { return Meta(expr.MetaKeyL4PROTO, p) }

// Family is NFPROTO_IPV4 or NFPROTO_IPV6.
func Family(f byte) Match { return Meta(expr.MetaKeyNFPROTO, f) }

// Marked has a packet mark, the whole of it.
func Marked(mark uint32) Match { return Meta(expr.MetaKeyMARK, Native(mark)...) }

// SetMark is a statement.
func SetMark(mark uint32) Match {
	return Match{
		&expr.Immediate{Register: Reg1, Data: Native(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: Reg1},
	}
}

// State has one of the states of connection tracking: expr.CtStateBit*.
func State(bits uint32) Match {
	return Match{
		&expr.Ct{Key: expr.CtKeySTATE, Register: Reg1},
		Mask(Native(bits)...), Unequal(Native(0)...),
	}
}

// Native is a number as the kernel keeps it in a register.
func Native(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }

// Name pads to IFNAMSIZ: without the padding it would match any name that
// begins so.
func Name(link string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, link)
	return b
}
