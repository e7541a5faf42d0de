package bench

import (
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

// feed queues n copies of an IP packet at the TUN, past routes and queueing
// disciplines.
func feed(packet []byte, n int) error {
	ifi, err := net.InterfaceByName(tunName)
	if err != nil {
		return err
	}
	const ipv4 = 0x0008 // ETH_P_IP in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("packet socket: %w", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Protocol: ipv4, Ifindex: ifi.Index}
	for i := range n {
		if err := unix.Sendto(fd, packet, 0, to); err != nil {
			return fmt.Errorf("packet %d of %d bytes to %s: %w", i, len(packet), tunName, err)
		}
	}
	return nil
}
