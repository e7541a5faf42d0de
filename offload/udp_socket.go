package offload

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// socketBuffer is room for a few of the largest datagrams and for a burst of
// small ones, in bytes each way. The kernel's default holds one or two of
// 65507. All of UDP together is bounded by net.ipv4.udp_mem.
const socketBuffer = 1 << 20

// busySize makes a flow a busy one: more bytes at a time than this.
const busySize = 4096

// udpSocket makes a socket with what all sockets for datagrams have: trains
// (UDP_GRO) and the traffic class. The kernel makes fragments where a datagram
// needs them, by the path's MTU as far as it knows it, and never sets DF.
//
// Each option is a system call, and those are what a card without hardware of
// its own is slow at: what few flows need, widen gives to those few.
func udpSocket(family int, more ...option) (int, error) {
	options := []option{{unix.SOL_UDP, unix.UDP_GRO, 1}}
	if family == unix.AF_INET6 {
		options = append(options,
			option{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1},
			option{unix.SOL_IPV6, unix.IPV6_RECVTCLASS, 1})
	} else {
		options = append(options,
			option{unix.SOL_IP, unix.IP_RECVTOS, 1},
			option{unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT})
	}
	return newSocket(family, unix.SOCK_DGRAM, append(options, more...)...)
}

// widen gives a socket the room that bulk data needs, and counts from now on
// what finds no room (SO_RXQ_OVFL). Without the rights for it the socket goes
// on with what it has.
func widen(fd int) {
	for _, name := range []int{unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, name, socketBuffer)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
}

// tellErrors puts ICMP errors into the socket's error queue.
func tellErrors(family int) option {
	if family == unix.AF_INET6 {
		return option{unix.SOL_IPV6, unix.IPV6_RECVERR, 1}
	}
	return option{unix.SOL_IP, unix.IP_RECVERR, 1}
}

// tellTarget says with a datagram where it was sent to before it was
// redirected here.
func tellTarget(family int) option {
	if family == unix.AF_INET6 {
		return option{unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1}
	}
	return option{unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1}
}

// tellLocal says with a datagram which address of the card it was sent to,
// and the interface.
func tellLocal(family int) option {
	if family == unix.AF_INET6 {
		return option{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1}
	}
	return option{unix.SOL_IP, unix.IP_PKTINFO, 1}
}

// listenerSocket is where nf_tables hands datagrams that no flow is there for.
func listenerSocket(at peer) (int, error) {
	family := at.family()
	fd, err := udpSocket(family, transparent(family), tellTarget(family), towardsHost)
	if err == nil {
		widen(fd)
	}
	return boundTo(fd, err, &at)
}

// Ports of downstream sockets are those of remotes, and a mapping may have the same number
// on the card: NTP, IKE and WireGuard speak from one port to the same port.
// The kernel allows that if both sockets are sharable; that mappings do not
// share a port with each other is seen to by the mappings' table.
var sharable = option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}

// downstreamSocket is a remote as the host sees it.
//
// It is not bound to a link: the way back is what the card's routes say, as
// it is for a packet that is forwarded, and links keep strict reverse path
// filtering, so nobody on another link can speak for this host.
func downstreamSocket(remote peer) (int, error) {
	family := remote.family()
	fd, err := udpSocket(family, transparent(family), tellErrors(family), sharable, towardsHost)
	return boundTo(fd, err, &remote)
}

// cardSocket speaks to the host with the card's own address.
func cardSocket(host peer) (int, error) {
	family := host.family()
	fd, err := udpSocket(family, tellErrors(family), towardsHost)
	return connectedTo(fd, err, &host)
}

// preservedSocket is the host's endpoint on the wire with its own address.
func preservedSocket(host peer) (int, error) {
	family := host.family()
	fd, err := udpSocket(family, tellErrors(family), transparent(family), sharable)
	return boundTo(fd, err, &host)
}

// wireSocket is the host's endpoint on the wire, at a port of the card, or
// with 0 at one that is free.
func wireSocket(family int, port uint16) (int, error) {
	options := []option{tellErrors(family)}
	if port != 0 {
		options = append(options, sharable)
	}
	at := anyAddress(family, port)
	fd, err := udpSocket(family, options...)
	if fd, err = boundTo(fd, err, &at); err == nil && port == 0 {
		err = unix.SetsockoptInt(fd, sharable.level, sharable.name, sharable.value)
	}
	return fd, err
}

// serviceSocket downstream sockets the wire for a published port.
func serviceSocket(family int, port uint16) (int, error) {
	at := anyAddress(family, port)
	fd, err := udpSocket(family, tellErrors(family), tellLocal(family), sharable)
	if err == nil {
		widen(fd)
	}
	return boundTo(fd, err, &at)
}

// keepsPort leaves alone what programs on the card bind when they start: a
// name server, DHCP clients and servers, multicast DNS.
func keepsPort(port uint16) bool {
	switch port {
	case 53, 67, 68, 546, 547, 5353, proxyPort:
		return false
	}
	return true
}

func anyAddress(family int, port uint16) (p peer) {
	if family == unix.AF_INET {
		copy(p[:], mapped[:])
	}
	p[16], p[17] = byte(port>>8), byte(port)
	return p
}

// boundTo and connectedTo pass an error on, or close what they return one for.
func boundTo(fd int, err error, at *peer) (int, error) {
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, sockaddr(at.addrPort())); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("bind %s: %w", at, err)
	}
	return fd, nil
}

func connectedTo(fd int, err error, to *peer) (int, error) {
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, sockaddr(to.addrPort())); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect %s: %w", to, err)
	}
	return fd, nil
}

// isOwn tells an address of the card. The kernel knows best: it lets nobody
// else have one.
func isOwn(p peer) bool {
	p[16], p[17] = 0, 0
	fd, err := unix.Socket(p.family(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, sockaddr(p.addrPort())) == nil
}
