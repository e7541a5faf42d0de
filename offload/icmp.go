package offload

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// icmp sends ICMP errors. An error from a router or remote of the wire is translated into one about
// the datagram that the host sent, with the same source.
type icmp struct {
	fds    map[int]int // raw sockets, by family
	out    [1280]byte
	tokens int // errors that may still be sent to the wire in this second
}

// wireErrors is the maximum number of ICMP errors to the wire per second (RFC 1812, section
// 4.3.2.8; RFC 4443, section 2.4 f).
const wireErrors = 100

// icmpError reports that a datagram from source to target was not delivered.
type icmpError struct {
	kind, code     uint8
	to             peer // destination of the error
	from           peer // its source; zero: the card, with its route's source address
	source, target peer
	quoted         []byte // beginning of the datagram's payload
}

func newICMP() (*icmp, error) {
	c := &icmp{fds: map[int]int{}, tokens: wireErrors}
	for _, family := range families {
		protocol := unix.IPPROTO_ICMP
		if family == unix.AF_INET6 {
			protocol = unix.IPPROTO_ICMPV6
		}
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
		if err == unix.EAFNOSUPPORT && family == unix.AF_INET6 {
			continue
		}
		if err != nil {
			c.close()
			return nil, fmt.Errorf("raw ICMP socket: %w", err)
		}
		c.fds[family] = fd
		if err := setUpICMP(fd, family); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

// setUpICMP makes a raw socket send-only. Without a filter it would queue a copy of all ICMP that
// the card receives.
func setUpICMP(fd, family int) error {
	for _, o := range []option{transparent(family), towardsHost} {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return fmt.Errorf("raw ICMP socket: option %d of level %d: %w", o.name, o.level, err)
		}
	}
	// One bit for each blocked type, linux/icmp.h and linux/icmpv6.h.
	all := unix.ICMPv6Filter{}
	for i := range all.Data {
		all.Data[i] = ^uint32(0)
	}
	err := unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &all)
	if family == unix.AF_INET {
		err = unix.SetsockoptInt(fd, unix.SOL_RAW, unix.ICMP_FILTER, -1)
	}
	if err != nil {
		return fmt.Errorf("raw ICMP socket: filter: %w", err)
	}
	return nil
}

func (c *icmp) close() {
	if c == nil {
		return
	}
	for _, fd := range c.fds {
		_ = unix.Close(fd)
	}
	c.fds = nil
}

// send reports whether the kernel took it. An ICMP error may be lost.
func (c *icmp) send(e *icmpError) bool {
	fd, ok := c.fds[e.to.family()]
	if !ok || e.source.is4() != e.to.is4() || e.target.is4() != e.to.is4() {
		return false
	}
	var room [controlSize / 8]uint64 // aligned
	control := controls{buf: bytesOf(&room)}
	if e.from != (peer{}) {
		if e.from.is4() != e.to.is4() {
			return false
		}
		control.source(&e.from)
	}
	to := e.to
	to[16], to[17] = 0, 0 // ICMP has no ports
	_, err := unix.SendmsgN(fd, e.put(c.out[:]), control.buf[:control.n], sockaddr(to.addrPort()), unix.MSG_DONTWAIT)
	return err == nil
}

// put writes the message into b, of 1280 bytes, and returns the part that it filled.
//
//	 0     1     2         4         8                        28 (6: 48)        36 (56)
//	┌─────┬─────┬─────────┬─────────┬────────────────────────┬─────────────────┬────────
//	│type │code │checksum │0        │IP header of the        │its UDP header   │payload…
//	└─────┴─────┴─────────┴─────────┴────────────────────────┴─────────────────┴────────
//
// RFC 792 and RFC 4443, section 3. The quoted headers match those that the host sent in the fields
// that a host checks: addresses and ports. Their lengths are those of the quoted part. With its IP
// header the message is at most 576 bytes in IPv4 (RFC 1812, section 4.3.2.3) and 1280 in IPv6.
func (e *icmpError) put(b []byte) []byte {
	four := e.to.is4()
	head, most := 40, 1280-40
	if four {
		head, most = 20, 576-20
	}
	quoted := e.quoted[:min(len(e.quoted), most-8-head-8)]
	b = b[:8+head+8+len(quoted)]
	clear(b)
	b[0], b[1] = e.kind, e.code
	if four {
		e.header4(b[8:28], 20+8+len(quoted))
	} else {
		e.header6(b[8:48], 8+len(quoted))
	}
	u := b[8+head:]
	copy(u[0:2], e.source[16:])
	copy(u[2:4], e.target[16:])
	binary.BigEndian.PutUint16(u[4:], uint16(8+len(quoted)))
	copy(u[8:], quoted)
	if four { // the kernel computes it for ICMPv6
		binary.BigEndian.PutUint16(b[2:], internetSum(b))
	}
	return b
}

// header4 writes an IPv4 header (RFC 791, section 3.1).
func (e *icmpError) header4(b []byte, length int) {
	b[0] = 4<<4 | 5
	binary.BigEndian.PutUint16(b[2:], uint16(length))
	b[8], b[9] = 64, unix.IPPROTO_UDP
	copy(b[12:], e.source[12:16])
	copy(b[16:], e.target[12:16])
	binary.BigEndian.PutUint16(b[10:], internetSum(b))
}

// header6 writes an IPv6 header (RFC 8200, section 3).
func (e *icmpError) header6(b []byte, length int) {
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(length))
	b[6], b[7] = unix.IPPROTO_UDP, 64
	copy(b[8:], e.source[:16])
	copy(b[24:], e.target[:16])
}

// internetSum returns the checksum of RFC 1071. The checksum field must be zero.
func internetSum(b []byte) uint16 {
	var s uint32
	for len(b) > 1 {
		s += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
