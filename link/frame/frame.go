// Package frame is the seam between an IP packet on the host and a
// virtio-net frame on the card.
//
// A packet crosses the bus as
//
//	0               12                       26
//	+---------------+------------------------+-------------- - -
//	| virtio header | constant Ethernet head | IPv4 or IPv6 packet
//	+---------------+------------------------+-------------- - -
//
// The Ethernet head says only "IPv4" or "IPv6". The sender writes it, the receiver ignores all but
// the type, and nothing switches on it. On the host only a virtio header precedes the packet, so
// every offset in that header moves by the 14 bytes.
package frame

import (
	"encoding/binary"
	"errors"
)

// Sizes in bytes.
const (
	HeaderLen = 12                   // struct virtio_net_hdr_v1, virtio 1.2 section 5.1.6
	EtherLen  = 14                   // destination, source, type
	SeamLen   = HeaderLen + EtherLen // bytes before the IP packet on the bus
	MaxPacket = 65535                // the largest IPv4 packet; the MTU of every link
	minIPv4   = 20
	minIPv6   = 40
)

// Header flags and GSO types, virtio 1.2 section 5.1.6.
const (
	NeedsCSum = 1 // the node that sends on the wire fills in the checksum
	DataValid = 2 // the sender vouches for the checksum
	RSCInfo   = 4

	GSONone  = 0
	GSOTCPv4 = 1
	GSOUDP   = 3 // UFO: never offered
	GSOTCPv6 = 4
	GSOUDPL4 = 5 // USO
	GSOECN   = 0x80
)

// Offsets in the header.
const (
	offFlags      = 0
	offGSOType    = 1
	offHdrLen     = 2
	offGSOSize    = 4
	offCSumStart  = 6
	offCSumOffset = 8
	offNumBuffers = 10
)

const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
)

// Errors for a refused frame. Each has its own counter.
var (
	ErrShort  = errors.New("frame shorter than its headers")
	ErrLong   = errors.New("packet longer than 65535 bytes")
	ErrNotIP  = errors.New("frame is neither IPv4 nor IPv6")
	ErrHeader = errors.New("checksum or segmentation fields do not fit the packet")
)

// Seam is the head of a frame on the bus: virtio header and Ethernet head.
type Seam [SeamLen]byte

// The constant Ethernet heads: locally administered addresses that no device owns, and the type.
var (
	headIPv4 = [EtherLen]byte{2, 't', 'o', 'e', 0, 1, 2, 't', 'o', 'e', 0, 2, 0x08, 0x00}
	headIPv6 = [EtherLen]byte{2, 't', 'o', 'e', 0, 1, 2, 't', 'o', 'e', 0, 2, 0x86, 0xdd}
)

// ToCard makes the head of a frame for the card from the virtio header that
// the TUN wrote, for an IP packet of size bytes that starts with the byte
// first and fills buffers receive buffers.
//
// The host's kernel wrote the header, so it is adjusted, not judged. Its
// hdr_len is not reliable on the forward path and only a hint: it becomes 0.
func ToCard(s *Seam, hdr *[HeaderLen]byte, first byte, size int, buffers uint16) error {
	switch first >> 4 {
	case 4:
		if size < minIPv4 {
			return ErrShort
		}
		*(*[EtherLen]byte)(s[HeaderLen:]) = headIPv4
	case 6:
		if size < minIPv6 {
			return ErrShort
		}
		*(*[EtherLen]byte)(s[HeaderLen:]) = headIPv6
	default:
		return ErrNotIP
	}
	*(*[HeaderLen]byte)(s[:]) = *hdr
	binary.LittleEndian.PutUint16(s[offHdrLen:], 0)
	if hdr[offFlags]&NeedsCSum != 0 {
		start := binary.LittleEndian.Uint16(hdr[offCSumStart:])
		binary.LittleEndian.PutUint16(s[offCSumStart:], start+EtherLen)
	}
	binary.LittleEndian.PutUint16(s[offNumBuffers:], buffers)
	return nil
}

// ToCardEthernet makes the virtio header of a frame for the card if the host
// hands out Ethernet frames, so no offset moves.
func ToCardEthernet(s *Seam, hdr *[HeaderLen]byte, buffers uint16) {
	*(*[HeaderLen]byte)(s[:]) = *hdr
	binary.LittleEndian.PutUint16(s[offHdrLen:], 0)
	binary.LittleEndian.PutUint16(s[offNumBuffers:], buffers)
}

// FromCard checks the head of a frame that the card sent and makes the virtio
// header for the TUN from it. size is the length of the whole frame on the
// bus, SeamLen included, and first the first byte of the IP packet. gso holds
// the GSO types that were negotiated.
//
// The card is hostile. s is the caller's private copy. If the card changes its
// memory afterwards, the kernel behind the TUN checks the packet once more, in a
// copy of its own.
func FromCard(hdr *[HeaderLen]byte, s *Seam, first byte, size int, gso GSO) error {
	packet := size - SeamLen
	if packet < minIPv4 {
		return ErrShort
	}
	if packet > MaxPacket {
		return ErrLong
	}
	least, version := minIPv4, byte(4)
	switch binary.BigEndian.Uint16(s[HeaderLen+12:]) {
	case etherIPv4:
	case etherIPv6:
		least, version = minIPv6, 6
		if packet < minIPv6 {
			return ErrShort
		}
	default:
		return ErrNotIP
	}
	if first>>4 != version {
		return ErrNotIP
	}
	*hdr = *(*[HeaderLen]byte)(s[:])
	if plain(hdr) {
		return nil
	}
	return judge(hdr, EtherLen, least, packet, version, gso)
}

// Ethernet checks the virtio header of a frame that the card sends to a TAP. No
// offset moves. size is the length behind the header.
func Ethernet(hdr *[HeaderLen]byte, size int, gso GSO) error {
	if size < EtherLen {
		return ErrShort
	}
	if size > MaxPacket+EtherLen+4 { // one VLAN tag
		return ErrLong
	}
	if plain(hdr) {
		return nil
	}
	return judge(hdr, 0, EtherLen, size, 0, gso)
}

// plain reports whether a header requests no offload, and if so makes it all zeros.
func plain(hdr *[HeaderLen]byte) bool {
	if hdr[offFlags]&^DataValid != 0 || hdr[offGSOType] != GSONone {
		return false
	}
	*hdr = [HeaderLen]byte{}
	return true
}

// judge checks the checksum and segmentation fields of a header against a packet of size bytes
// behind it. The network header of the packet ends at offset least or later. judge moves the
// checksum's start down by shift and clears the fields that have no meaning towards the host.
// version is 4 or 6 if it is known, else 0.
func judge(hdr *[HeaderLen]byte, shift, least, size int, version byte, gso GSO) error {
	flags, kind := hdr[offFlags]&^DataValid, hdr[offGSOType]
	if flags&^NeedsCSum != 0 {
		return ErrHeader
	}
	if kind != GSONone && (flags&NeedsCSum == 0 || !gso.allows(kind, version)) {
		return ErrHeader
	}
	if flags&NeedsCSum != 0 {
		start := int(binary.LittleEndian.Uint16(hdr[offCSumStart:])) - shift
		offset := int(binary.LittleEndian.Uint16(hdr[offCSumOffset:]))
		if start < least || start+offset+2 > size {
			return ErrHeader
		}
		if kind != GSONone {
			segment := int(binary.LittleEndian.Uint16(hdr[offGSOSize:]))
			if segment == 0 || start+transportLen(kind) > size {
				return ErrHeader
			}
		}
		binary.LittleEndian.PutUint16(hdr[offCSumStart:], uint16(start))
	}
	if kind == GSONone {
		binary.LittleEndian.PutUint16(hdr[offGSOSize:], 0)
	}
	hdr[offFlags] = flags
	binary.LittleEndian.PutUint16(hdr[offHdrLen:], 0)
	binary.LittleEndian.PutUint16(hdr[offNumBuffers:], 0)
	return nil
}

// transportLen is the least transport header of a GSO type in bytes.
func transportLen(kind byte) int {
	if kind&^GSOECN == GSOUDPL4 {
		return 8
	}
	return 20
}

// GSO holds the negotiated segmentation types, which the driver may request.
type GSO struct {
	TCPv4, TCPv6, ECN, UDP bool
}

func (g GSO) allows(kind, version byte) bool {
	if kind&GSOECN != 0 && !g.ECN {
		return false
	}
	switch kind &^ GSOECN {
	case GSOTCPv4:
		return g.TCPv4 && version != 6
	case GSOTCPv6:
		return g.TCPv6 && version != 4
	case GSOUDPL4:
		return g.UDP && kind&GSOECN == 0
	}
	return false
}
