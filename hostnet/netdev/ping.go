package netdev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"github.com/toe-project/toe/control"
)

// fullPayload fills an IPv4 packet of 65535 bytes: less 20 for the IP header and 8 for ICMP's.
const fullPayload = control.LinkMTU - 20 - 8

// Ping sends one echo request of the link's full size and waits for its answer. It
// returns nil where the caller may not send one: that is no fault of the link.
func Ping(ctx context.Context, card netip.Addr) error {
	conn, to, err := openPing(card)
	if errors.Is(err, os.ErrPermission) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ping %s: %w", card, err)
	}
	defer conn.Close()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Second)
	}
	_ = conn.SetDeadline(deadline)
	msg := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: os.Getpid() & 0xffff, Seq: 1, Data: bytes.Repeat([]byte{0x74}, fullPayload)}}
	packet, err := msg.Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := conn.WriteTo(packet, to); err != nil {
		return fmt.Errorf("ping %s with %d bytes: %w", card, len(packet), cause(err))
	}
	return awaitEcho(conn, card)
}

func openPing(card netip.Addr) (*icmp.PacketConn, net.Addr, error) {
	ip := net.IP(card.AsSlice())
	if conn, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0"); err == nil {
		return conn, &net.IPAddr{IP: ip}, nil
	}
	conn, err := icmp.ListenPacket("udp4", "0.0.0.0")
	return conn, &net.UDPAddr{IP: ip}, err
}

func awaitEcho(conn *icmp.PacketConn, card netip.Addr) error {
	buf := make([]byte, control.LinkMTU)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("no answer from %s to a packet of %d bytes: %w", card, control.LinkMTU, cause(err))
		}
		m, err := icmp.ParseMessage(1, buf[:n])
		if err == nil && m.Type == ipv4.ICMPTypeEchoReply && n == fullPayload+8 {
			return nil
		}
	}
}

// cause leaves out the addresses that a message has already.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
