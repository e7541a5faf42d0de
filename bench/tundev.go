package bench

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/tun"
)

const tunName = "bench0"

// openTUN makes a TUN that is up, with room for queued packets.
func openTUN(queued int) (*os.File, error) {
	files, err := tun.Open(tun.Options{Name: tunName, Queues: 1})
	if err != nil {
		return nil, err
	}
	l, err := netlink.LinkByName(tunName)
	if err == nil {
		err = netlink.LinkSetMTU(l, frame.MaxPacket)
	}
	if err == nil {
		err = netlink.LinkSetTxQLen(l, queued)
	}
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		files[0].Close()
		return nil, fmt.Errorf("interface %s: %w", tunName, err)
	}
	return files[0], nil
}

// headLen is the part of a packet in the head of its buffer in the kernel, in bytes: IPv4 and TCP
// with time stamps. The rest is in pages, from the start of a page.
const headLen = 20 + 32

// feed queues n copies of an IP packet at the TUN, past routes and queueing disciplines. They lie
// in the kernel as TCP's do, see headLen. By default a packet socket keeps a packet in one piece,
// whose alignment relative to a ring's buffer makes the copy twenty times slower on some CPUs
// (docs/benchmarks.md).
func feed(packet []byte, n int) error {
	ifi, err := net.InterfaceByName(tunName)
	if err != nil {
		return err
	}
	const ipv4 = 0x0008 // ETH_P_IP in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return fmt.Errorf("packet socket with a virtio-net header: %w", err)
	}
	const headerLen, hdrLen = 10, 2 // of struct virtio_net_hdr, and where its hdr_len is
	b := make([]byte, headerLen, headerLen+len(packet))
	binary.NativeEndian.PutUint16(b[hdrLen:], uint16(min(headLen, len(packet))))
	b = append(b, packet...)
	to := &unix.SockaddrLinklayer{Protocol: ipv4, Ifindex: ifi.Index}
	for i := range n {
		if err := unix.Sendto(fd, b, 0, to); err != nil {
			return fmt.Errorf("packet %d of %d bytes to %s: %w", i, len(packet), tunName, err)
		}
	}
	return nil
}
