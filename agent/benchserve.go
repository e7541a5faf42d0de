package agent

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/internal/ethtool"
)

// BenchServe is the far end of toe-bench's traffic. While standard input is
// open it serves connections to a TCP address of the link. The first byte of a
// connection selects what it does:
//
//	'i'              reads and discards
//	'o'              writes without end
//	'e'              echoes each byte
//	'c' port size    answers with a 0, counts datagrams at a UDP port until the
//	                 peer sends one more byte, and answers with their number
//	'u' port size    sends datagrams to the peer's UDP port until the peer
//	                 closes the connection
//	'g' mtu tso      sets MTU and TSO (0 off, 1 on, 2 unchanged) of the device
//	                 that has the address, and answers with a 0
//
// Numbers have 2 bytes, the answer to 'c' 8, all big-endian.
func BenchServe(address string, in io.Reader, out io.Writer) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		io.Copy(io.Discard, in)
		l.Close()
	}()
	fmt.Fprintln(out, "ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return nil // standard input was closed
		}
		go benchConn(c.(*net.TCPConn))
	}
}

// benchConn serves one connection until the peer closes it.
func benchConn(c *net.TCPConn) {
	defer c.Close()
	buf := make([]byte, 1<<20)
	if _, err := io.ReadFull(c, buf[:1]); err != nil {
		return
	}
	var err error
	switch mode := buf[0]; mode {
	case 'i':
		for err == nil {
			_, err = c.Read(buf)
		}
	case 'o':
		for err == nil {
			_, err = c.Write(buf)
		}
	case 'e':
		for err == nil {
			if _, err = c.Read(buf[:1]); err == nil {
				_, err = c.Write(buf[:1])
			}
		}
	case 'c', 'u', 'g':
		var numbers [4]byte
		if _, err := io.ReadFull(c, numbers[:]); err == nil {
			first, second := binary.BigEndian.Uint16(numbers[:]), binary.BigEndian.Uint16(numbers[2:])
			benchOrder(c, mode, int(first), int(second))
		}
	}
}

// benchOrder does what takes two numbers. On an error it closes the connection
// without an answer.
func benchOrder(c *net.TCPConn, mode byte, first, second int) {
	switch mode {
	case 'c':
		if n, err := benchCount(c, first); err == nil {
			_, _ = c.Write(binary.BigEndian.AppendUint64(nil, n))
		}
	case 'u':
		benchSend(c, first, second)
	case 'g':
		if benchDevice(c, first, second) == nil {
			_, _ = c.Write([]byte{0})
		}
	}
}

// benchDevice changes the device that has the connection's local address.
func benchDevice(c *net.TCPConn, mtu, tso int) error {
	own := c.LocalAddr().(*net.TCPAddr).IP
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if a.IP.Equal(own) {
				if err := netlink.LinkSetMTU(l, mtu); err != nil {
					return err
				}
				if tso > 1 {
					return nil
				}
				return ethtool.SetTSO(l.Attrs().Name, tso == 1)
			}
		}
	}
	return fmt.Errorf("no device has the address %s", own)
}
