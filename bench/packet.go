package bench

import (
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
)

// ringSize is the size of a ring of the fake card: that of User-Mode Linux.
const ringSize = 256

// slot is the room for one packet and its seam, in bytes.
func slot(size int) int { return (frame.SeamLen + size + 63) &^ 63 }

// receiveBuffer is what Linux's driver offers for packets of a size: pages for
// large ones, of which a packet takes several, a little over 1500 for small.
func receiveBuffer(size int) int {
	if size > 1500 {
		return 4096
	}
	return 1536
}

// cardFrame is an IP packet as a card sends it.
func cardFrame(packet []byte) []byte {
	b := make([]byte, frame.SeamLen, frame.SeamLen+len(packet))
	b[frame.SeamLen-2] = 0x08 // IPv4
	return append(b, packet...)
}

// ipPacket is a UDP packet of size bytes, its header's checksum included, from
// and to networks made for tests (RFC 2544), where it goes nowhere.
func ipPacket(size int) []byte {
	b := make([]byte, size)
	b[0], b[2], b[3], b[8], b[9] = 0x45, byte(size>>8), byte(size), 64, unix.IPPROTO_UDP
	copy(b[12:], []byte{198, 18, 0, 1, 198, 19, 0, 1})
	udp := size - 20
	copy(b[20:], []byte{0x13, 0x88, 0x13, 0x89, byte(udp >> 8), byte(udp)})
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	b[10], b[11] = byte(^sum>>8), byte(^sum)
	return b
}
