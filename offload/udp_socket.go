package offload

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// socketBuffer is enough for a few of the largest datagrams or a burst of small ones, in bytes per
// direction. The kernel's default holds one or two of 65507. net.ipv4.udp_mem bounds all of UDP
// together.
const socketBuffer = 1 << 20

// busySize is the size of a datagram or train, in bytes, that makes a session busy.
const busySize = 4096

// udpSocket makes a socket with the options of all UDP sockets: trains (UDP_GRO) and the traffic
// class. The kernel fragments datagrams by the path MTU that it knows, and never sets DF.
//
// Each option is a system call, which is slow on a card without hardware virtualization. Options
// that few flows need are set by widen.
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

// widen enlarges a socket's buffers for bulk data and enables the count of dropped datagrams
// (SO_RXQ_OVFL). Without CAP_NET_ADMIN the socket keeps its buffers.
func widen(fd int) {
	for _, name := range []int{unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, name, socketBuffer)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
}

// recvErrors puts ICMP errors into the socket's error queue.
func recvErrors(family int) option {
	if family == unix.AF_INET6 {
		return option{unix.SOL_IPV6, unix.IPV6_RECVERR, 1}
	}
	return option{unix.SOL_IP, unix.IP_RECVERR, 1}
}

// recvTarget passes the original destination of a redirected datagram with it.
func recvTarget(family int) option {
	if family == unix.AF_INET6 {
		return option{unix.SOL_IPV6, unix.IPV6_RECVORIGDSTADDR, 1}
	}
	return option{unix.SOL_IP, unix.IP_RECVORIGDSTADDR, 1}
}

// recvLocal passes the card's address that a datagram was sent to, and the interface, with it.
func recvLocal(family int) option {
	if family == unix.AF_INET6 {
		return option{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1}
	}
	return option{unix.SOL_IP, unix.IP_PKTINFO, 1}
}

// listenerSocket receives the datagrams that nf_tables finds no socket for.
func listenerSocket(at peer) (int, error) {
	family := at.family()
	fd, err := udpSocket(family, transparent(family), recvTarget(family), towardsHost)
	if err == nil {
		widen(fd)
	}
	return boundTo(fd, err, &at)
}

// Ports of downstream sockets are those of remotes, and a mapping may have the same number
// on the card: NTP, IKE and WireGuard use the same port on both sides. The kernel allows that if
// both sockets are sharable; the mappings' table keeps mappings from sharing a port.
var sharable = option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}

// downstreamSocket makes the socket of a remote towards the host, with the remote's address.
//
// It is not bound to a link: the card's routes choose the link, as for a forwarded packet. Links
// keep strict reverse path filtering, so another link cannot forge this host's address.
func downstreamSocket(remote peer) (int, error) {
	family := remote.family()
	fd, err := udpSocket(family, transparent(family), recvErrors(family), sharable, towardsHost)
	return boundTo(fd, err, &remote)
}

// cardSocket makes a socket that sends to the host from the card's own address.
func cardSocket(host peer) (int, error) {
	family := host.family()
	fd, err := udpSocket(family, recvErrors(family), towardsHost)
	return connectedTo(fd, err, &host)
}

// preservedSocket makes the socket of the host's endpoint on the wire with the host's address.
func preservedSocket(host peer) (int, error) {
	family := host.family()
	fd, err := udpSocket(family, recvErrors(family), transparent(family), sharable)
	return boundTo(fd, err, &host)
}

// wireSocket makes the socket of the host's endpoint on the wire at a port of the card; 0 means any
// free port.
func wireSocket(family int, port uint16) (int, error) {
	options := []option{recvErrors(family)}
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

// serviceSocket makes the socket of a published port on the wire.
func serviceSocket(family int, port uint16) (int, error) {
	at := anyAddress(family, port)
	fd, err := udpSocket(family, recvErrors(family), recvLocal(family), sharable)
	if err == nil {
		widen(fd)
	}
	return boundTo(fd, err, &at)
}

// keepsPort reports whether a mapping may keep the host's port. Ports that programs on the card
// bind are excluded: a name server, DHCP clients and servers, multicast DNS.
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

// boundTo and connectedTo pass an error on, and close the socket when they fail.
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

// isOwn reports whether p is an address of the card. It asks the kernel: only those can be bound.
func isOwn(p peer) bool {
	p[16], p[17] = 0, 0
	fd, err := unix.Socket(p.family(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, sockaddr(p.addrPort())) == nil
}
