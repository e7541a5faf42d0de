package link

import "encoding/binary"

// forHost reports whether an Ethernet frame is for the loopback of the host that passt runs on.
// Passt opens a connection to any address that a frame has, and not every version refuses these.
// The card's kernel does not send them out of a port, but a compromised one would. Passt connects
// these to its own host:
//
//	IPv4   127.0.0.0/8, and 0.0.0.0/8, which connect(2) treats as loopback
//	IPv6   ::1, ::, and IPv4 addresses in IPv6 ones (::ffff:127.0.0.1): all of ::/64
//
// A frame too short to have a destination passes to passt.
func forHost(f []byte) bool {
	const head, ip4, ip6 = 14, 0x0800, 0x86dd
	if len(f) < head {
		return false
	}
	switch body := f[head:]; binary.BigEndian.Uint16(f[12:]) {
	case ip4: // RFC 791: destination at 16
		return len(body) >= 20 && (body[16] == 127 || body[16] == 0)
	case ip6: // RFC 8200: destination at 24
		return len(body) >= 40 && binary.BigEndian.Uint64(body[24:]) == 0
	}
	return false
}
