package firewall

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Sizes of headers without options, in bytes, and what is in them.
const (
	ipv4Header = 20 // RFC 791, section 3.1
	tcpHeader  = 20 // RFC 9293, section 3.1
	flagSYN    = 0x02
	flagACK    = 0x10
)

// synACK is the answer to a SYN over IPv4 to an address and port, or nil where
// the packet is something else.
func synACK(packet []byte, to netip.AddrPort) []byte {
	if len(packet) < ipv4Header || packet[0]>>4 != 4 || packet[9] != unix.IPPROTO_TCP {
		return nil
	}
	head := int(packet[0]&15) * 4
	if head < ipv4Header || len(packet) < head+tcpHeader {
		return nil
	}
	tcp := packet[head:]
	dst, _ := netip.AddrFromSlice(packet[16:20])
	isTo := dst == to.Addr() && binary.BigEndian.Uint16(tcp[2:]) == to.Port()
	if !isTo || tcp[13]&(flagSYN|flagACK) != flagSYN {
		return nil
	}
	out := make([]byte, ipv4Header+tcpHeader)
	out[0], out[8], out[9] = 4<<4|ipv4Header/4, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	copy(out[12:], packet[16:20])
	copy(out[16:], packet[12:16])
	binary.BigEndian.PutUint16(out[10:], ^sum(0, out[:ipv4Header]))
	reply := out[ipv4Header:]
	copy(reply, tcp[2:4])
	copy(reply[2:], tcp[:2])
	binary.BigEndian.PutUint32(reply[8:], binary.BigEndian.Uint32(tcp[4:])+1)
	reply[12], reply[13] = tcpHeader/4<<4, flagSYN|flagACK
	binary.BigEndian.PutUint16(reply[14:], 65535)
	pseudo := sum(unix.IPPROTO_TCP+tcpHeader, out[12:20])
	binary.BigEndian.PutUint16(reply[16:], ^sum(uint32(pseudo), reply))
	return out
}

// sum is the ones' complement sum of b, whose length is even (RFC 1071).
func sum(s uint32, b []byte) uint16 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
