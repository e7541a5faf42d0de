package agent

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/internal/ethtool"
)

// BenchServe is the far end of toe bench's traffic: on a TCP address of the
// link, for as long as standard input is open, it serves connections whose
// first byte says what for:
//
//	'i'              takes everything in
//	'o'              gives out without end
//	'e'              gives each byte back
//	'c' port size    answers with a 0, counts datagrams at a UDP port until the
//	                 other side says by one more byte that it has sent all, and
//	                 answers with their number
//	'u' port size    sends datagrams to the other side's UDP port until that
//	                 ends the connection
//	'g' mtu tso      sets MTU and TSO (0 off, 1 on, 2 as it is) of the device
//	                 that the address is on, and answers with a 0
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
			return nil // the other side is done
		}
		go benchConn(c.(*net.TCPConn))
	}
}

// benchConn serves one connection until the other side ends it.
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
			benchOrder(c, mode, int(binary.BigEndian.Uint16(numbers[:])), int(binary.BigEndian.Uint16(numbers[2:])))
		}
	}
}

// benchOrder does what is told with two numbers. A connection that ends
// without an answer says that it could not be done.
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

// benchDevice changes the device that a connection came in by.
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
