package raw

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Socket makes a non-blocking socket.
func Socket(family, kind int) (int, error) {
	Calls.Add(1)
	fd, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(family), uintptr(kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC), 0)
	return result(fd, errno)
}

// Setsockopt sets an option with an integer value.
func Setsockopt(fd, level, name, value int) error {
	Calls.Add(1)
	v := int32(value)
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
	return failure(errno)
}

// SetLinger sets SO_LINGER to 0 s (close(2) resets), or off (close(2) ends in order).
func SetLinger(fd int, reset bool) error {
	Calls.Add(1)
	l := unix.Linger{}
	if reset {
		l.Onoff = 1
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER,
		uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
	return failure(errno)
}

// Getsockopt reads an option into a fixed-size value.
func Getsockopt[T any](fd, level, name int, value *T) error {
	Calls.Add(1)
	size := uint32(unsafe.Sizeof(*value))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(value)), uintptr(unsafe.Pointer(&size)), 0)
	return failure(errno)
}

// Shutdown ends one direction.
func Shutdown(fd, how int) error {
	Calls.Add(1)
	_, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), uintptr(how), 0)
	return failure(errno)
}

// SendTo sends b to an encoded address; a nil address means the socket's peer. It does not wait and
// raises no SIGPIPE.
func SendTo(fd int, b []byte, flags int, to []byte) error {
	Calls.Add(1)
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		uintptr(flags|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL), uintptr(unsafe.Pointer(unsafe.SliceData(to))), uintptr(len(to)))
	return failure(errno)
}

// Bind gives a socket its local address.
func Bind(fd int, at netip.AddrPort) error { return named(unix.SYS_BIND, fd, at) }

// Connect starts a connection. It normally returns EINPROGRESS.
func Connect(fd int, to netip.AddrPort) error { return named(unix.SYS_CONNECT, fd, to) }

func named(trap uintptr, fd int, a netip.AddrPort) error {
	Calls.Add(1)
	var s sockaddr
	n := s.put(a)
	_, _, errno := unix.RawSyscall(trap, uintptr(fd), uintptr(unsafe.Pointer(&s)), n)
	return failure(errno)
}

// Accept returns a non-blocking connection and its peer's address. x/sys would query the socket's
// protocol before decoding the address.
func Accept(fd int) (int, netip.AddrPort, error) {
	Calls.Add(1)
	var s sockaddr
	size := uint32(unsafe.Sizeof(s))
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&s)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(n), s.get(), nil
}

// Getsockname returns a socket's local address.
func Getsockname(fd int) (netip.AddrPort, error) {
	Calls.Add(1)
	var s sockaddr
	size := uint32(unsafe.Sizeof(s))
	if _, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&s)), uintptr(unsafe.Pointer(&size))); errno != 0 {
		return netip.AddrPort{}, errno
	}
	return s.get(), nil
}

// sockaddr is a struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)). The family is in
// the CPU's byte order, port and address are big endian.
type sockaddr [unix.SizeofSockaddrInet6]byte

// put encodes a and returns the length in bytes.
func (s *sockaddr) put(a netip.AddrPort) uintptr {
	binary.BigEndian.PutUint16(s[2:], a.Port())
	if a.Addr().Is4() {
		binary.NativeEndian.PutUint16(s[:], unix.AF_INET)
		addr := a.Addr().As4()
		copy(s[4:], addr[:])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(s[:], unix.AF_INET6)
	addr := a.Addr().As16()
	copy(s[8:], addr[:])
	return unix.SizeofSockaddrInet6
}

// get decodes the address; it is invalid for another family. An IPv4-mapped address becomes an IPv4
// address.
func (s *sockaddr) get() netip.AddrPort {
	port := binary.BigEndian.Uint16(s[2:])
	switch binary.NativeEndian.Uint16(s[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(s[8:24])).Unmap(), port)
	}
	return netip.AddrPort{}
}
