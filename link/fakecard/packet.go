package fakecard

import (
	"encoding/binary"

	"github.com/toe-project/toe/link/frame"
)

// Frame makes a frame for the bus: a plain virtio header, the Ethernet head and
// the packet, whose version determines the type.
func Frame(packet []byte) []byte {
	b := make([]byte, frame.SeamLen, frame.SeamLen+len(packet))
	ether := uint16(0x0800)
	if len(packet) > 0 && packet[0]>>4 == 6 {
		ether = 0x86dd
	}
	binary.BigEndian.PutUint16(b[frame.HeaderLen+12:], ether)
	return append(b, packet...)
}

// UDP makes an IPv4 packet of size bytes in all, at least 28, that carries UDP
// without a checksum between two addresses and ports; the payload counts up.
func UDP(src, dst [4]byte, sport, dport uint16, size int) []byte {
	b := make([]byte, size)
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(size))
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], ^sum(b[:20]))
	binary.BigEndian.PutUint16(b[20:], sport)
	binary.BigEndian.PutUint16(b[22:], dport)
	binary.BigEndian.PutUint16(b[24:], uint16(size-20))
	for i := range b[28:] {
		b[28+i] = byte(i)
	}
	return b
}

func sum(b []byte) uint16 {
	s := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
