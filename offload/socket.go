package offload

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/raw"
)

// sockaddr is an address as the kernel takes it.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// addrPort is the inverse. A mapped IPv4 address becomes an IPv4 address.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// option is a socket option of integer value.
type option struct{ level, name, value int }

// newSocket makes a socket that does not block, with options.
func newSocket(family, kind int, options ...option) (int, error) {
	fd, err := raw.Socket(family, kind)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	for _, o := range options {
		if err := raw.Setsockopt(fd, o.level, o.name, o.value); err != nil {
			_ = raw.Close(fd)
			return -1, fmt.Errorf("socket option %d of level %d: %w", o.name, o.level, err)
		}
	}
	return fd, nil
}

// transparent lets a socket have an address that is not the card's.
func transparent(family int) option {
	if family == unix.AF_INET6 {
		return option{unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1}
	}
	return option{unix.SOL_IP, unix.IP_TRANSPARENT, 1}
}

// towardsHost marks what a socket sends as traffic of the host's side.
var towardsHost = option{unix.SOL_SOCKET, unix.SO_MARK, markOwn}

// linkBuffer is what a connection to the host may hold of payload that is not
// taken, in bytes each way. The kernel makes room for twice as much, and
// would by itself let it grow to a sixteenth of the memory: a program on the
// host that sleeps must not cost the others theirs. The link needs no more,
// its round trip is a fraction of a millisecond.
const linkBuffer = 1 << 20

// sendLocked, of linux/socket.h, is SOCK_SNDBUF_LOCK: the kernel leaves the size
// of the send buffer alone. That of the receive buffer only begins as linkBuffer:
// what a window takes of memory is the kernel's guess from the largest segment
// that it saw, and where smaller ones come, which take more, a locked buffer drops
// what the window had promised; the host waits 200 ms and sends it again.
const sendLocked = 1

// narrow takes back what the receive buffer of a connection to the host has
// grown to beyond wide. The kernel lets one that is read fast grow to the largest of
// tcp_rmem, and one that may not grow any more drops again what it has promised.
// Between the two calls it is locked, so that it keeps room for as much as the
// card's whole receive ring brings.
func narrow(fd int, wide uint32) {
	const ring = 4 << 20
	m, err := memory(fd)
	room := max(m.received+ring, wide)
	if err != nil || m.room <= room+linkBuffer/2 {
		return
	}
	_ = raw.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, int(room/2))
	_ = raw.Setsockopt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK, sendLocked)
}

// largestReceive is what the kernel lets a receive buffer grow to, in bytes of
// memory: the last of tcp_rmem (Linux: Documentation/networking/ip-sysctl.rst).
func largestReceive() uint32 {
	text, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_rmem")
	if f := strings.Fields(string(text)); len(f) == 3 {
		if n, err := strconv.ParseUint(f[2], 10, 31); err == nil {
			return uint32(n)
		}
	}
	return 6 << 20 // the kernel's own
}

// memInfo begins as SO_MEMINFO gives it (linux/sock_diag.h): bytes of memory that
// the receive queue takes, and those that it may take.
type memInfo struct{ received, room uint32 }

func memory(fd int) (m memInfo, err error) {
	err = raw.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_MEMINFO, &m)
	return m, err
}

// hostSide are the options of a connection to the host.
func hostSide(options ...option) []option {
	return append(options, towardsHost,
		option{unix.SOL_SOCKET, unix.SO_RCVBUF, linkBuffer}, option{unix.SOL_SOCKET, unix.SO_SNDBUF, linkBuffer},
		option{unix.SOL_SOCKET, unix.SO_BUF_LOCK, sendLocked})
}

// connection are the options of every connection that payload passes.
//
// Segments go out as they come: the host's own Nagle algorithm has had its
// say before. A peer that is silently gone is found by keepalive, for that of
// the program on the host asks the card only; the agent sets its times for the
// whole card, three system calls less for each connection. And a socket
// that is closed before its time, also because this program died, resets its
// connection: an end that is no end must not look like one.
var connection = []option{
	{unix.SOL_TCP, unix.TCP_NODELAY, 1},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1}, // see passUrgent
}

// linger makes close(2) reset a connection, or end it in order.
func linger(fd int, reset bool) error {
	return raw.SetLinger(fd, reset)
}

// listen makes a TCP listener. Accepted connections inherit its options.
func listen(at netip.AddrPort, options ...option) (int, error) {
	options = append(options, connection...)
	options = append(options, option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	if !at.Addr().Is4() {
		options = append(options, option{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1})
	}
	fd, err := newSocket(familyOf(at.Addr()), unix.SOCK_STREAM, options...)
	if err != nil {
		return -1, fmt.Errorf("listener at %s: %w", at, err)
	}
	err = errors.Join(linger(fd, true), raw.Bind(fd, at))
	if err == nil {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		_ = raw.Close(fd)
		return -1, fmt.Errorf("listener at %s: %w", at, err)
	}
	return fd, nil
}

// dial begins a connection. source may be invalid: any address of the card.
func dial(source, to netip.AddrPort, options ...option) (int, error) {
	options = append(options, connection...)
	family := familyOf(to.Addr())
	if source.IsValid() {
		options = append(options, transparent(family), option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	}
	fd, err := newSocket(family, unix.SOCK_STREAM, options...)
	if err != nil {
		return -1, err
	}
	err = linger(fd, true)
	if err == nil && source.IsValid() {
		err = raw.Bind(fd, source)
	}
	if err == nil {
		err = raw.Connect(fd, to)
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = raw.Close(fd)
		return -1, err
	}
	return fd, nil
}

// pendingError takes the error that waits at a socket, if any.
func pendingError(fd int) error {
	var code int32
	if err := raw.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_ERROR, &code); err != nil {
		return err
	}
	if code != 0 {
		return unix.Errno(code)
	}
	return nil
}
