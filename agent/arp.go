package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// An ARP packet for IPv4 over Ethernet (RFC 826):
//
//	 0  hardware 1, protocol 0x0800, lengths 6 and 4, operation (2): 1 request, 2 reply
//	 8  sender: MAC (6), address (4)
//	18  target: MAC (6), address (4)
const (
	arpLen     = 28
	arpRequest = 1
)

// arpPacket is the part of one that conflict detection needs.
type arpPacket struct {
	operation      uint16
	mac            [6]byte
	sender, target netip.Addr
}

func parseARP(p []byte) (arpPacket, bool) {
	if len(p) < arpLen || string(p[:6]) != "\x00\x01\x08\x00\x06\x04" {
		return arpPacket{}, false
	}
	return arpPacket{
		operation: binary.BigEndian.Uint16(p[6:]), mac: [6]byte(p[8:14]),
		sender: netip.AddrFrom4([4]byte(p[14:18])), target: netip.AddrFrom4([4]byte(p[24:28])),
	}, true
}

func (a arpPacket) bytes() []byte {
	p := append(make([]byte, 0, arpLen), 0, 1, 8, 0, 6, 4)
	p = binary.BigEndian.AppendUint16(p, a.operation)
	p = append(append(p, a.mac[:]...), a.sender.AsSlice()...)
	return append(append(p, make([]byte, 6)...), a.target.AsSlice()...)
}

// contests reports whether the packet shows that another node has an address or is
// about to take it (RFC 5227, section 2.1.1).
func (a arpPacket) contests(address netip.Addr, mac [6]byte) bool {
	if a.mac == mac {
		return false
	}
	probe := a.operation == arpRequest && a.sender == netip.IPv4Unspecified() && a.target == address
	return a.sender == address || probe
}

// claim checks that no other node on the wire has an address, and then announces
// it (RFC 5227, section 2). The address is in use from the start: waiting for the
// whole probe would make each start of a card longer by 5 s.
type claim struct {
	contested chan struct{} // closed when another node has the address
	by        net.HardwareAddr
	cancel    context.CancelFunc
	done      chan struct{}
}

// claimAddress sends the first probe before it returns. Probes are pause apart;
// then, twice as far apart, come two announcements.
func claimAddress(
	ctx context.Context, name string, address netip.Addr, pause time.Duration,
) (*claim, error) {
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("ARP on %s: %w", name, err)
	}
	if len(dev.HardwareAddr) != 6 {
		return nil, fmt.Errorf("ARP on %s: hardware address %q, want six bytes", name, dev.HardwareAddr)
	}
	conn, err := packet.Listen(dev, packet.Datagram, unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, fmt.Errorf("ARP on %s: %w", name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &claim{contested: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
	mac := [6]byte(dev.HardwareAddr)
	probe := arpPacket{arpRequest, mac, netip.IPv4Unspecified(), address}
	announcement := arpPacket{arpRequest, mac, address, address}
	send := func(a arpPacket) {
		_, _ = conn.WriteTo(a.bytes(), &packet.Addr{HardwareAddr: broadcastMAC})
	}
	send(probe)
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	go func() {
		defer close(c.done)
		c.listen(conn, address, mac)
	}()
	go func() {
		defer cancel()
		for _, s := range []struct {
			after time.Duration
			what  arpPacket
		}{{pause, probe}, {pause, probe}, {2 * pause, announcement}, {2 * pause, announcement}} {
			if !sleep(ctx, s.after) {
				return
			}
			send(s.what)
		}
	}()
	return c, nil
}

var broadcastMAC = net.HardwareAddr{255, 255, 255, 255, 255, 255}

func (c *claim) listen(conn *packet.Conn, address netip.Addr, mac [6]byte) {
	buf := make([]byte, 64)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if a, ok := parseARP(buf[:n]); ok && a.contests(address, mac) {
			c.by = a.mac[:]
			close(c.contested)
			return
		}
	}
}

// lost reports whether another node has been seen to have the address.
func (c *claim) lost() bool {
	select {
	case <-c.contested:
		return true
	default:
		return false
	}
}

func (c *claim) end() {
	c.cancel()
	<-c.done
}
