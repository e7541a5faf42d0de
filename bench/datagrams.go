package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	// The ports of datagrams, on the card and here. They differ, since passt listens here for the
	// card.
	cardUDP = 5301
	hostUDP = 5302
	// udpSize makes IPv4 packets of 64 bytes.
	udpSize = 64 - 20 - 8
	// udpBatch is how many datagrams one system call moves.
	udpBatch = 64
)

func udpMessages() []ipv4.Message {
	messages := make([]ipv4.Message, udpBatch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, udpSize)}
	}
	return messages
}

// smallToCard sends datagrams as fast as this host can for length, and returns how many a second a
// program on the card received.
func (g *rig) smallToCard(ctx context.Context, length time.Duration) (float64, error) {
	order, err := g.dial(ctx, 'c', cardUDP, udpSize)
	if err != nil {
		return 0, err
	}
	defer order.Close()
	_ = order.SetDeadline(time.Now().Add(length + 20*time.Second))
	var answer [8]byte
	if _, err := io.ReadFull(order, answer[:1]); err != nil {
		return 0, fmt.Errorf("the card counts no datagrams: %w", err)
	}
	var u *net.UDPConn
	err = g.ns.do(func() (err error) {
		u, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(g.host, cardUDP)))
		return err
	})
	if err != nil {
		return 0, err
	}
	defer u.Close()
	batch, messages := ipv4.NewPacketConn(u), udpMessages()
	start := time.Now()
	for time.Since(start) < length && ctx.Err() == nil {
		if _, err := batch.WriteBatch(messages, 0); err != nil {
			time.Sleep(100 * time.Microsecond) // a full queue
		}
	}
	took := time.Since(start)
	if _, err := order.Write([]byte{0}); err != nil { // no half close: passt may close both directions
		return 0, err
	}
	if _, err := io.ReadFull(order, answer[:]); err != nil {
		return 0, fmt.Errorf("the card's count of datagrams: %w", err)
	}
	return float64(binary.BigEndian.Uint64(answer[:])) / took.Seconds(), ctx.Err()
}

// smallToHost lets the card send as fast as it can, and counts here.
func (g *rig) smallToHost(ctx context.Context, length time.Duration) (float64, error) {
	var u *net.UDPConn
	err := g.ns.do(func() (err error) {
		u, err = net.ListenUDP("udp4", &net.UDPAddr{Port: hostUDP})
		return err
	})
	if err != nil {
		return 0, err
	}
	defer u.Close()
	_ = u.SetReadBuffer(4 << 20)
	order, err := g.dial(ctx, 'u', hostUDP, udpSize)
	if err != nil {
		return 0, err
	}
	defer order.Close()
	batch, messages := ipv4.NewPacketConn(u), udpMessages()
	// The clock runs from the first datagram.
	_ = u.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := batch.ReadBatch(messages, 0); err != nil {
		return 0, fmt.Errorf("no datagram came from the card: %w", err)
	}
	n, start := 0, time.Now()
	_ = u.SetReadDeadline(start.Add(length))
	for ctx.Err() == nil {
		got, err := batch.ReadBatch(messages, 0)
		if err != nil {
			break // the time is up
		}
		n += got
	}
	return float64(n) / time.Since(start).Seconds(), ctx.Err()
}
