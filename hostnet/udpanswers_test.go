package hostnet

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/hostnet/netdev"
	"github.com/toe-project/toe/link/frame"
)

// A UDP service answers through the link, from the link's address, what came
// through the link, and nothing else, whatever address it is bound to.
func TestUDPAnswersGoBack(t *testing.T) {
	if !ownHost(t) {
		return
	}
	h, addrs, att := testLink(t, "", 1)
	defaultRoute(t)
	undo, err := h.ReturnRoute(att.Interface, addrs)
	if err != nil {
		t.Fatal(err)
	}
	// Clients behind the card.
	clients := []netip.Addr{netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("2001:db8:5::5")}
	for _, bound := range []string{"0.0.0.0", "[::]", addrs.HostAddrs()[0].String()} {
		t.Run(bound, func(t *testing.T) {
			service, err := net.ListenPacket("udp", bound+":5353")
			if err != nil {
				t.Fatal(err)
			}
			defer service.Close()
			for i, client := range clients {
				if i == 1 && bound != "[::]" {
					continue
				}
				for range 3 {
					ask(t, att.Files[0], service, netip.AddrPortFrom(client, 4000), addrs.HostAddrs()[i], 3000)
				}
			}
		})
	}
	// What did not come through the link does not go through it: another port of
	// a client that did, and another service.
	for _, c := range []struct{ from, to string }{{":5353", "203.0.113.5:4001"}, {":5354", "203.0.113.5:4000"}, {":5353", "203.0.113.6:4000"}} {
		service, err := net.ListenPacket("udp4", "0.0.0.0"+c.from)
		if err != nil {
			t.Fatal(err)
		}
		to, _ := net.ResolveUDPAddr("udp4", c.to)
		if _, err := service.WriteTo([]byte("x"), to); err != nil {
			t.Error(err)
		}
		service.Close()
		if p := nextPacket(t, att.Files[0], 100*time.Millisecond); p != nil {
			t.Errorf("from %s to %s: it goes through the link: %x", c.from, c.to, p)
		}
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if hasTable(t, udpTable(h.card.Name)) {
		t.Error("the table is left")
	}
}

// defaultRoute gives the namespace a way to everywhere that leads nowhere.
func defaultRoute(t *testing.T) {
	t.Helper()
	l := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "peer7"}
	l.Name = "eth7"
	if err := netlink.LinkAdd(l); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lo", "eth7", "peer7"} {
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/eth7/accept_dad", []byte("0"), 0)
	for _, a := range []string{"198.51.100.2/24", "2001:db8:1::2/64"} {
		p := netip.MustParsePrefix(a)
		if err := netlink.AddrAdd(l, &netlink.Addr{IPNet: netdev.IPNet(p), Flags: unix.IFA_F_NODAD}); err != nil {
			t.Fatal(err)
		}
		way := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: p.Addr().Prev().AsSlice(), Dst: netdev.IPNet(everything(p.Addr()))}
		if err := netlink.RouteAdd(way); err != nil {
			t.Fatal(err)
		}
	}
}

// ask puts a datagram on the link, has the service answer it with size bytes,
// and wants the answer on the link.
func ask(t *testing.T, card *os.File, service net.PacketConn, client netip.AddrPort, host netip.Addr, size int) {
	t.Helper()
	port := uint16(service.LocalAddr().(*net.UDPAddr).Port)
	packet := udpPacket(client, netip.AddrPortFrom(host, port), []byte("question"))
	if _, err := card.Write(append(make([]byte, frame.HeaderLen), packet...)); err != nil {
		t.Fatal(err)
	}
	_ = service.SetDeadline(time.Now().Add(2 * time.Second))
	buf := make([]byte, 64)
	_, from, err := service.ReadFrom(buf)
	if err != nil {
		t.Fatalf("the question: %v", err)
	}
	if _, err := service.WriteTo(make([]byte, size), from); err != nil {
		t.Fatalf("the answer to %s: %v", from, err)
	}
	p := nextPacket(t, card, 2*time.Second)
	if p == nil {
		t.Fatalf("%s: no answer on the link", client)
	}
	src, dst, udp := split(t, p)
	if src != host || dst != client.Addr() || len(udp) != size+8 ||
		binary.BigEndian.Uint16(udp) != port || binary.BigEndian.Uint16(udp[2:]) != client.Port() {
		t.Errorf("answer of %d bytes from %s to %s, want %d from %s to %s", len(udp), src, dst, size+8, host, client)
	}
	if sum := checksum(src, dst, udp); sum != 0 {
		t.Errorf("the answer's checksum is wrong by %#x", sum)
	}
	if ip4 := p; dst.Is4() && fold(sum16(ip4[:20])) != 0xffff {
		t.Error("the checksum of the IPv4 header is wrong")
	}
}

// nextPacket is the next UDP packet that the host sends to the card.
func nextPacket(t *testing.T, card *os.File, limit time.Duration) []byte {
	t.Helper()
	buf := make([]byte, 1<<17)
	for end := time.Now().Add(limit); ; {
		left := max(time.Until(end), 0)
		p := []unix.PollFd{{Fd: int32(card.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(p, int(left.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return nil
		}
		n, err = card.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		packet := buf[frame.HeaderLen:n]
		if packet[0]>>4 == 4 && packet[9] == unix.IPPROTO_UDP || packet[0]>>4 == 6 && packet[6] == unix.IPPROTO_UDP {
			return packet
		}
	}
}

func split(t *testing.T, p []byte) (src, dst netip.Addr, udp []byte) {
	t.Helper()
	if p[0]>>4 == 4 {
		src, _ = netip.AddrFromSlice(p[12:16])
		dst, _ = netip.AddrFromSlice(p[16:20])
		return src, dst, p[20:]
	}
	src, _ = netip.AddrFromSlice(p[8:24])
	dst, _ = netip.AddrFromSlice(p[24:40])
	return src, dst, p[40:]
}

// udpPacket is an IP packet: RFC 768, RFC 791, RFC 8200.
func udpPacket(from, to netip.AddrPort, data []byte) []byte {
	udp := binary.BigEndian.AppendUint16(nil, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(data)))
	udp = append(append(udp, 0, 0), data...)
	binary.BigEndian.PutUint16(udp[6:], ^fold(pseudo(from.Addr(), to.Addr(), udp)+sum16(udp)))
	if from.Addr().Is6() {
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_UDP, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(len(udp)))
		copy(ip[8:], from.Addr().AsSlice())
		copy(ip[24:], to.Addr().AsSlice())
		return append(ip, udp...)
	}
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(20+len(udp)))
	copy(ip[12:], from.Addr().AsSlice())
	copy(ip[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum16(ip)))
	return append(ip, udp...)
}

// checksum returns 0 if the checksum of a UDP packet is correct (RFC 1071).
func checksum(src, dst netip.Addr, udp []byte) uint16 {
	return ^fold(pseudo(src, dst, udp) + sum16(udp))
}

func pseudo(src, dst netip.Addr, udp []byte) uint32 {
	return sum16(src.AsSlice()) + sum16(dst.AsSlice()) + unix.IPPROTO_UDP + uint32(len(udp))
}

func sum16(b []byte) (sum uint32) {
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

func hasTable(t *testing.T, name string) bool {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range all {
		if table.Name == name {
			return true
		}
	}
	return false
}
