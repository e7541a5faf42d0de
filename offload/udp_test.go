package offload

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pattern is n bytes that are not all the same.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * 7 >> 3)
	}
	return b
}

func exchange(t *testing.T, c *net.UDPConn, size int) {
	t.Helper()
	want := pattern(size)
	if _, err := c.Write(want); err != nil {
		t.Fatalf("send %d bytes: %v", size, err)
	}
	got := make([]byte, 1<<16)
	n, err := c.Read(got)
	if err != nil {
		t.Fatalf("answer of %d bytes: %v", size, err)
	}
	if !bytes.Equal(got[:n], want) {
		t.Fatalf("answer has %d bytes, want the %d that were sent", n, size)
	}
}

func at(host string, port int) string {
	return netip.AddrPortFrom(netip.MustParseAddr(host), uint16(port)).String()
}

// TestUDPLargestDatagrams: one packet on the link, fragments on the wire only.
// Linux sends no IPv4 packet of more than 65520 bytes (IP_MAX_MTU of
// include/net/ip.h): the fifteen largest sizes take two even there.
func TestUDPLargestDatagrams(t *testing.T) {
	r := newTrial(t, Config{})
	r.world.echo(7)
	for _, c := range []struct {
		remote string
		sizes  []int
	}{
		{worldAddr4, []int{0, 1, 1472, 1473, 9000, 65492}},
		{worldAddr6, []int{0, 1, 1452, 1453, 9000, 65487}},
	} {
		conn := r.host.dial(at(c.remote, 7))
		for _, size := range c.sizes {
			exchange(t, conn, size)
		}
	}
	for _, counter := range []string{"ReasmReqds", "FragCreates", "FragOKs"} {
		if n := r.host.snmp("Ip", counter); n != 0 {
			t.Errorf("%s of the host is %d", counter, n)
		}
		if n := r.world.snmp("Ip", counter); n == 0 {
			t.Errorf("%s of the world is 0: no fragments on the wire either", counter)
		}
	}
	exchange(t, r.host.dial(at(worldAddr4, 7)), 65507)
	s := r.stats()
	if s.Flows != 3 || s.Opened != 3 || s.FromHost != 13 || s.ToHost != 13 || len(s.Drops) != 0 {
		t.Errorf("stats %+v", s)
	}
}

// hearAll makes a connected socket report soft errors too: without, Linux
// tells of a port that is not open and what is prohibited.
func hearAll(t *testing.T, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
	})
}

// TestUDPErrorsReachTheSocket: what connect(2)ed sockets learn.
func TestUDPErrorsReachTheSocket(t *testing.T) {
	r := newTrial(t, Config{})
	r.card.ip("route add unreachable 198.51.100.1")
	r.card.ip("route add prohibit 198.51.100.2")
	r.world.ip("addr add 203.0.113.1/24 dev lo")
	r.card.ip("route add 203.0.113.0/24 via " + worldAddr4)
	r.world.ip("route add unreachable 203.0.113.128/25")
	r.world.set("ipv4/ip_forward", "1")
	for _, c := range []struct {
		name, remote string
		want         error
	}{
		{"no socket", at(worldAddr4, 9), unix.ECONNREFUSED},
		{"no socket, IPv6", at(worldAddr6, 9), unix.ECONNREFUSED},
		{"nobody there", "192.0.2.77:9", unix.EHOSTUNREACH},
		{"nobody there, IPv6", "[2001:db8::77]:9", unix.EHOSTUNREACH},
		{"no route of the card", "198.51.100.1:9", unix.EHOSTUNREACH},
		{"no route of the card, IPv6", "[2001:db8:1::1]:9", unix.ENETUNREACH},
		{"prohibited", "198.51.100.2:9", unix.EHOSTUNREACH},
		{"a router of the wire says so", "203.0.113.200:9", unix.EHOSTUNREACH},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := r.host.dial(c.remote)
			hearAll(t, conn)
			_, _ = conn.Write([]byte("anybody there?"))
			_ = conn.SetDeadline(time.Now().Add(8 * time.Second))
			_, err := conn.Read(make([]byte, 1))
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	t.Log(r.stats())
}

// TestUDPNotAskedFor: an endpoint hears whom it has spoken to.
func TestUDPNotAskedFor(t *testing.T) {
	r := newTrial(t, Config{})
	r.world.echo(7)
	conn := r.host.listen(at(hostAddr4, 4000))
	if _, err := conn.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort(at(worldAddr4, 7))); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if _, _, err := conn.ReadFromUDPAddrPort(buf); err != nil {
		t.Fatal(err)
	}
	// The card keeps the port number.
	stranger := r.world.dial(at(cardAddr4, 4000))
	_, _ = stranger.Write([]byte("y"))
	until(t, "a drop", func() bool { return r.stats().Drops[dropStranger] == 1 })
	_ = conn.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if n, from, err := conn.ReadFromUDPAddrPort(buf); err == nil {
		t.Errorf("the host got %d bytes from %v", n, from)
	}
}

func TestUDPKeepsOrder(t *testing.T) {
	r := newTrial(t, Config{})
	const burst, rounds = 200, 10
	sink := r.world.listen(at(worldAddr4, 9))
	buf := make([]byte, 100)
	for round := range rounds {
		conn := r.host.dial(at(worldAddr4, 9))
		for i := range burst {
			fmt.Fprintf(conn, "%d %d", round, i)
		}
		for i := range burst {
			n, err := sink.Read(buf)
			if want := fmt.Sprintf("%d %d", round, i); err != nil || string(buf[:n]) != want {
				t.Fatalf("got %q, %v, want %q", buf[:n], err, want)
			}
		}
	}
}
