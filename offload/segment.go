package offload

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// pair identifies a connection by its source and destination.
type pair struct{ from, to netip.AddrPort }

// segment holds the fields of a SYN.
type segment struct {
	pair
	class uint8 // type of service or traffic class, without the ECN bits
	seq   uint32
}

// parseSegment parses the head of an IP packet that carries TCP. It requires the bytes up to the
// sequence number only: the kernel has checked the rest.
func parseSegment(b []byte) (s segment, ok bool) {
	if len(b) == 0 {
		return s, false
	}
	switch b[0] >> 4 {
	case 4:
		return parseSegment4(b)
	case 6:
		return parseSegment6(b)
	}
	return s, false
}

// parseSegment4: RFC 791, section 3.1.
func parseSegment4(b []byte) (s segment, ok bool) {
	size := int(b[0]&0x0f) * 4
	if size < 20 || len(b) < size+8 || b[9] != unix.IPPROTO_TCP {
		return s, false
	}
	if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 { // a later fragment
		return s, false
	}
	s.class = b[1] & 0xfc
	s.pair = ports(netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[size:])
	s.seq = binary.BigEndian.Uint32(b[size+4:])
	return s, true
}

// parseSegment6: RFC 8200, section 3, with the extension headers that may precede TCP.
func parseSegment6(b []byte) (s segment, ok bool) {
	const hopByHop, routing, destinationOptions = 0, 43, 60
	if len(b) < 40 {
		return s, false
	}
	s.class = (b[0]<<4 | b[1]>>4) & 0xfc
	next, at := b[6], 40
	for next != unix.IPPROTO_TCP {
		if next != hopByHop && next != routing && next != destinationOptions || len(b) < at+2 {
			return s, false
		}
		next, at = b[at], at+(int(b[at+1])+1)*8
	}
	if len(b) < at+8 {
		return s, false
	}
	s.pair = ports(netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[at:])
	s.seq = binary.BigEndian.Uint32(b[at+4:])
	return s, true
}

func ports(from, to netip.Addr, b []byte) pair {
	return pair{
		netip.AddrPortFrom(from, binary.BigEndian.Uint16(b)),
		netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[2:])),
	}
}
