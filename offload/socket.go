package offload

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/loop"
	"github.com/toe-project/toe/offload/raw"
)

// sockaddr returns the address in the form of golang.org/x/sys/unix.
func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// addrPort is the inverse of sockaddr. An IPv4-mapped address becomes an IPv4 address.
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

// option is a socket option with an integer value.
type option struct{ level, name, value int }

// newSocket makes a non-blocking socket and sets options.
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

// transparent lets a socket bind to an address that is not the card's.
func transparent(family int) option {
	if family == unix.AF_INET6 {
		return option{unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1}
	}
	return option{unix.SOL_IP, unix.IP_TRANSPARENT, 1}
}

// towardsHost marks packets sent by a socket as traffic of the host's side.
var towardsHost = option{unix.SOL_SOCKET, unix.SO_MARK, markOwn}

// linkBuffer is the maximum of unread payload on a connection to the host, in bytes per direction.
// The kernel reserves twice as much. By default it would let the buffer grow to a sixteenth of the
// memory: a sleeping program on the host must not starve other connections. The link needs no
// larger buffer, because its round trip is a fraction of a millisecond.
const linkBuffer = 1 << 20

// sendLocked is SOCK_SNDBUF_LOCK of linux/socket.h: the kernel does not resize the send buffer. The
// receive buffer starts at linkBuffer and is not locked. The kernel estimates the memory of a
// window from the largest segment it has seen. Smaller segments need more memory, so a locked
// buffer drops data inside the window, and the host retransmits it after 200 ms.
const sendLocked = 1

// narrow shrinks the receive buffer of a connection to the host that has grown beyond wide. The
// kernel lets the buffer of a fast reader grow to the maximum of tcp_rmem, and a buffer that can no
// longer grow drops data inside the window. The buffer is locked between the two calls, so its new
// size includes room for the card's whole receive ring.
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

// largestReceive returns the maximum size of a receive buffer, in bytes of memory: the last value
// of tcp_rmem (Linux: Documentation/networking/ip-sysctl.rst).
func largestReceive() uint32 {
	text, _ := os.ReadFile("/proc/sys/net/ipv4/tcp_rmem")
	if f := strings.Fields(string(text)); len(f) == 3 {
		if n, err := strconv.ParseUint(f[2], 10, 31); err == nil {
			return uint32(n)
		}
	}
	return 6 << 20 // the kernel's default
}

// memInfo is the beginning of the SO_MEMINFO array (linux/sock_diag.h): bytes of memory used by the
// receive queue, and their limit.
type memInfo struct{ received, room uint32 }

func memory(fd int) (m memInfo, err error) {
	err = raw.Getsockopt(fd, unix.SOL_SOCKET, unix.SO_MEMINFO, &m)
	return m, err
}

// hostSide adds the options of a connection to the host.
func hostSide(options ...option) []option {
	return append(options, towardsHost,
		option{unix.SOL_SOCKET, unix.SO_RCVBUF, linkBuffer}, option{unix.SOL_SOCKET, unix.SO_SNDBUF, linkBuffer},
		option{unix.SOL_SOCKET, unix.SO_BUF_LOCK, sendLocked})
}

// connection lists the options of every connection that carries payload.
//
// TCP_NODELAY: segments are sent at once, because the host's Nagle algorithm has already been
// applied. SO_KEEPALIVE detects a silent peer, because keepalive of the program on the host reaches
// the card only. The agent sets the keepalive times for the whole card, which saves three system
// calls per connection. A socket that is closed early, for instance because this program died,
// resets its connection (SO_LINGER): an abort must not look like an orderly end.
var connection = []option{
	{unix.SOL_TCP, unix.TCP_NODELAY, 1},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1}, // see passUrgent
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
	err = errors.Join(raw.SetLinger(fd, true), raw.Bind(fd, at))
	if err == nil {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		_ = raw.Close(fd)
		return -1, fmt.Errorf("listener at %s: %w", at, err)
	}
	return fd, nil
}

// dial starts a connection. An invalid source means any address of the card.
func dial(l *loop.Loop, source, to netip.AddrPort, options ...option) (int, error) {
	family := familyOf(to.Addr())
	if source.IsValid() {
		l.Settle() // an earlier connection may have the port
		options = append(options, transparent(family), option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	}
	fd, err := newSocket(family, unix.SOCK_STREAM, options...)
	if err != nil {
		return -1, err
	}
	if source.IsValid() {
		err = raw.Bind(fd, source)
	}
	if err == nil {
		err = raw.Connect(fd, to)
	}
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = raw.Close(fd)
		return -1, err
	}
	for _, o := range connection {
		l.SetOption(fd, o.level, o.name, o.value)
	}
	l.SetLinger(fd, true)
	return fd, nil
}

// pendingError reads and clears the pending error of a socket (SO_ERROR).
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
