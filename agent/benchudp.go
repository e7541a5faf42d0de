package agent

import (
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/net/ipv4"
)

// benchBatch is how many datagrams one system call moves.
const benchBatch = 64

// benchSettle is how long datagrams may take to arrive after the last was sent.
const benchSettle = 100 * time.Millisecond

// benchCount counts the datagrams to a UDP port of the connection's local
// address. It writes a 0 to the connection when the port is open.
func benchCount(c *net.TCPConn, port int) (n uint64, err error) {
	own := c.LocalAddr().(*net.TCPAddr)
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: own.IP, Port: port, Zone: own.Zone})
	if err != nil {
		return 0, err
	}
	defer u.Close()
	_ = u.SetReadBuffer(4 << 20)
	if _, err := c.Write([]byte{0}); err != nil {
		return 0, err
	}
	go func() {
		_, _ = c.Read(make([]byte, 1)) // the peer has sent all
		_ = u.SetReadDeadline(time.Now().Add(benchSettle))
	}()
	batch := ipv4.NewPacketConn(u)
	messages := benchMessages(64)
	for {
		got, err := batch.ReadBatch(messages, 0)
		if err != nil {
			return n, nil // no more datagrams
		}
		n += uint64(got)
	}
}

// benchSend sends datagrams of size bytes as fast as it can.
func benchSend(c *net.TCPConn, port, size int) {
	peer := c.RemoteAddr().(*net.TCPAddr)
	u, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: peer.IP, Port: port, Zone: peer.Zone})
	if err != nil {
		return
	}
	defer u.Close()
	go func() {
		_, _ = io.Copy(io.Discard, c)
		u.Close()
	}()
	batch := ipv4.NewPacketConn(u)
	messages := benchMessages(size)
	refused := 0
	for refused < 1000 {
		// Neither a full queue nor an ICMP error ends it.
		if _, err := batch.WriteBatch(messages, 0); errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			refused++
			time.Sleep(time.Millisecond)
		}
	}
}

func benchMessages(size int) []ipv4.Message {
	messages := make([]ipv4.Message, benchBatch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, size)}
	}
	return messages
}
