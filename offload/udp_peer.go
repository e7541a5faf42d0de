package offload

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// peer is an address (IPv6 or IPv4-mapped) and a port, big endian. It has no pointers: a key with a
// peer is hashed in one pass, and the garbage collector does not scan it.
type peer [18]byte

func peerOf(a netip.AddrPort) (p peer) {
	addr := a.Addr().As16()
	copy(p[:16], addr[:])
	binary.BigEndian.PutUint16(p[16:], a.Port())
	return p
}

func (p *peer) addr() netip.Addr {
	return netip.AddrFrom16([16]byte(p[:16])).Unmap()
}

func (p *peer) port() uint16 { return binary.BigEndian.Uint16(p[16:]) }

func (p *peer) addrPort() netip.AddrPort { return netip.AddrPortFrom(p.addr(), p.port()) }

func (p peer) String() string { return p.addrPort().String() }

// mapped is the prefix of an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2).
var mapped = [12]byte{10: 0xff, 11: 0xff}

func (p *peer) is4() bool { return [12]byte(p[:12]) == mapped }

func (p *peer) family() int { return familyOf(p.addr()) }

// isUnicast reports whether the peer is a valid unicast source and destination: one machine.
// Link-local IPv6 is excluded, because the same address can exist on every link.
func (p *peer) isUnicast() bool {
	a := p.addr()
	if p.port() == 0 || a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return false
	}
	return a.Is4() || a.IsGlobalUnicast()
}

// rawName is a struct sockaddr_in or sockaddr_in6 of the kernel:
//
//	 0       2     4          8                        24      28
//	┌───────┬─────┬──────────┬────────┐
//	│AF_INET│port │address   │0       │
//	├───────┼─────┼──────────┼────────┴───────────────┬───────┐
//	│AF_INET6     │flow label│address                 │scope  │
//	└───────┴─────┴──────────┴────────────────────────┴───────┘
//
// The family is in the CPU's byte order, the rest is big endian.
type rawName [unix.SizeofSockaddrInet6]byte

// put encodes p and returns the length in bytes.
func (s *rawName) put(p *peer) int {
	*s = rawName{}
	copy(s[2:], p[16:])
	if p.is4() {
		binary.NativeEndian.PutUint16(s[:], unix.AF_INET)
		copy(s[4:], p[12:16])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(s[:], unix.AF_INET6)
	copy(s[8:], p[:16])
	return unix.SizeofSockaddrInet6
}

// peerFrom decodes a socket address. It returns the zero peer for another family or a short one.
func peerFrom(s []byte) (p peer) {
	if len(s) < unix.SizeofSockaddrInet4 {
		return peer{}
	}
	switch family := binary.NativeEndian.Uint16(s); {
	case family == unix.AF_INET:
		copy(p[:], mapped[:])
		copy(p[12:16], s[4:8])
	case family == unix.AF_INET6 && len(s) >= unix.SizeofSockaddrInet6:
		copy(p[:16], s[8:24])
	default:
		return peer{}
	}
	copy(p[16:], s[2:4])
	return p
}
