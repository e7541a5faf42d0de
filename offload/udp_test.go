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
// The route here has a gateway, and a locked MTU with a number is 65520 at
// most (net/ipv4/metrics.c): the fifteen largest sizes take two packets. A
// route of toe's own has neither.
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

// hearAll makes a connected socket report soft errors too. By default Linux reports only a closed
// port and administrative prohibition.
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

// TestUDPErrorsReachTheSocket: connected sockets get the errors of the wire.
func TestUDPErrorsReachTheSocket(t *testing.T) {
	r := newTrial(t, Config{})
	r.card.set("ipv4/neigh/wan/mcast_solicit", "1")
	r.card.set("ipv6/neigh/wan/mcast_solicit", "1")
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

// TestUDPNotAskedFor: an endpoint receives only from remotes that it has sent to.
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

// TestUDPClosedOnTheHost: the remote gets ECONNREFUSED after the host has closed its socket.
func TestUDPClosedOnTheHost(t *testing.T) {
	r := newTrial(t, Config{})
	world := r.world.listen(at(worldAddr4, 9))
	host := r.host.dial(at(worldAddr4, 9))
	_, _ = host.Write([]byte("x"))
	_, from, err := world.ReadFromUDPAddrPort(make([]byte, 10))
	if err != nil {
		t.Fatal(err)
	}
	host.Close()
	hearAll(t, world)
	_, _ = world.WriteToUDPAddrPort([]byte("y"), from)
	until(t, "the flow's end", func() bool { return r.stats().Flows == 0 })
	_, _ = world.WriteToUDPAddrPort([]byte("y"), from)
	if _, _, err := world.ReadFromUDPAddrPort(make([]byte, 10)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the remote gets %v, want %v", err, unix.ECONNREFUSED)
	}
	var left int
	r.loop.Do(func() { left = r.udp.sockets + len(r.udp.mappings) })
	if left != 0 {
		t.Errorf("%d sockets left", left)
	}
}

func TestUDPTrafficClass(t *testing.T) {
	r := newTrial(t, Config{})
	const class = 0xb8 | 1 // EF, ECT(1)
	for _, remote := range []string{worldAddr4, worldAddr6} {
		world := r.world.listen(at(remote, 9))
		host := r.host.dial(at(remote, 9))
		setClass(t, host, class)
		setClass(t, world, class)
		var answer netip.AddrPort
		for range 3 {
			_, _ = host.Write([]byte("x"))
			got, from := readClass(t, world)
			if got != class {
				t.Errorf("%s: class %#x arrives at the world, want %#x", remote, got, class)
			}
			answer = from
		}
		_, _ = world.WriteToUDPAddrPort([]byte("y"), answer)
		if got, _ := readClass(t, host); got != class {
			t.Errorf("%s: class %#x arrives at the host, want %#x", remote, got, class)
		}
	}
}

func setClass(t *testing.T, c *net.UDPConn, class int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		for _, o := range []option{
			{unix.SOL_IP, unix.IP_TOS, class}, {unix.SOL_IP, unix.IP_RECVTOS, 1},
			{unix.SOL_IPV6, unix.IPV6_TCLASS, class}, {unix.SOL_IPV6, unix.IPV6_RECVTCLASS, 1},
		} {
			_ = unix.SetsockoptInt(int(fd), o.level, o.name, o.value)
		}
	})
}

func readClass(t *testing.T, c *net.UDPConn) (uint8, netip.AddrPort) {
	t.Helper()
	control := make([]byte, 128)
	_, n, _, from, err := c.ReadMsgUDPAddrPort(make([]byte, 10), control)
	if err != nil {
		t.Fatal(err)
	}
	var d datagram
	d.decode(control[:n])
	return d.class, from
}

// TestUDPManyFlows: the table is bounded, and the session idle longest is evicted.
func TestUDPManyFlows(t *testing.T) {
	r := newTrial(t, Config{})
	r.world.echo(7)
	r.loop.Do(func() { r.udp.limit = 256 })
	first := r.host.dial(at(worldAddr4, 7))
	exchange(t, first, 10)
	for range 300 {
		exchange(t, r.host.dial(at(worldAddr4, 7)), 10)
	}
	s := r.stats()
	// Each flow has a socket on the wire; all share the downstream socket of the remote.
	if s.Flows != 254 || s.Drops[dropEvicted] != 301-254 {
		t.Errorf("flows %d, drops %v; want 254 flows, the rest evicted", s.Flows, s.Drops)
	}
	exchange(t, first, 10) // gets a flow again
}

// TestUDPOneEndpointManyRemotes: an endpoint has one socket on the wire for all its remotes.
func TestUDPOneEndpointManyRemotes(t *testing.T) {
	r := newTrial(t, Config{})
	host := r.host.listen(at(hostAddr4, 5000))
	buf := make([]byte, 10)
	for i := range 50 {
		world := r.world.listen(at(worldAddr4, 6000+i))
		to := netip.MustParseAddrPort(at(worldAddr4, 6000+i))
		_, _ = host.WriteToUDPAddrPort([]byte("x"), to)
		_, from, err := world.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatal(err)
		}
		if from.String() != at(cardAddr4, 5000) {
			t.Fatalf("remote %d sees %s, want the card with the host's port", i, from)
		}
		_, _ = world.WriteToUDPAddrPort([]byte("y"), from)
		if _, from, err = host.ReadFromUDPAddrPort(buf); err != nil || from.Port() != to.Port() {
			t.Fatalf("answer from %v, %v, want %v", from, err, to)
		}
	}
	if s := r.stats(); s.Flows != 50 {
		t.Errorf("%d flows, want 50", s.Flows)
	}
}

// TestUDPPreserve: the wire sees the host's address and port.
func TestUDPPreserve(t *testing.T) {
	r := newTrial(t, Config{Preserve: true})
	r.world.ip("route add 10.9.0.0/30 via " + cardAddr4)
	r.world.ip("route add fd09::/126 via " + cardAddr6)
	for _, c := range []struct{ host, remote string }{{hostAddr4, worldAddr4}, {hostAddr6, worldAddr6}} {
		host, world := r.host.listen(at(c.host, 5000)), r.world.listen(at(c.remote, 9))
		for range 2 {
			_, _ = host.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort(at(c.remote, 9)))
			buf := make([]byte, 1<<16)
			_, from, err := world.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatal(err)
			}
			if from.String() != at(c.host, 5000) {
				t.Errorf("the world sees %s, want %s", from, at(c.host, 5000))
			}
			_, _ = world.WriteToUDPAddrPort(pattern(60000), from)
			if n, _, err := host.ReadFromUDPAddrPort(buf); err != nil || !bytes.Equal(buf[:n], pattern(60000)) {
				t.Errorf("%d bytes, %v", n, err)
			}
		}
	}
	if n := r.host.snmp("Ip", "ReasmReqds"); n != 0 {
		t.Errorf("ReasmReqds of the host is %d", n)
	}
}

// TestUDPSamePortOnBothSides: NTP, IKE and WireGuard use the same source and destination port. The
// port of a remote can also be the port of another endpoint of the host.
func TestUDPSamePortOnBothSides(t *testing.T) {
	r := newTrial(t, Config{})
	for _, c := range []struct{ host, remote, card string }{
		{hostAddr4, worldAddr4, cardAddr4}, {hostAddr6, worldAddr6, cardAddr6},
	} {
		world := r.world.listen(at(c.remote, 123))
		other := r.host.listen(at(c.host, 124))
		same := r.host.listen(at(c.host, 123))
		to := netip.MustParseAddrPort(at(c.remote, 123))
		buf := make([]byte, 10)
		for _, p := range []struct {
			from *net.UDPConn
			port int
		}{{other, 124}, {same, 123}, {other, 124}} {
			_, _ = p.from.WriteToUDPAddrPort([]byte("x"), to)
			_, seen, err := world.ReadFromUDPAddrPort(buf)
			if err != nil || seen.String() != at(c.card, p.port) {
				t.Fatalf("the world sees %v, %v, want %s", seen, err, at(c.card, p.port))
			}
			_, _ = world.WriteToUDPAddrPort([]byte("y"), seen)
			if _, seen, err = p.from.ReadFromUDPAddrPort(buf); err != nil || seen != to {
				t.Fatalf("port %d of the host hears %v, %v", p.port, seen, err)
			}
		}
	}
}

// TestUDPPortsAreNotShared: two endpoints of the host with the same port number have two ports on
// the wire.
func TestUDPPortsAreNotShared(t *testing.T) {
	r := newTrial(t, Config{})
	r.host.ip("addr add 10.9.1.1/32 dev toe0")
	r.card.ip("route add 10.9.1.1/32 via " + hostAddr4)
	world := r.world.listen(at(worldAddr4, 123))
	seen := map[string]bool{}
	for _, host := range []string{hostAddr4, "10.9.1.1"} {
		_, _ = r.host.listen(at(host, 5000)).WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort(at(worldAddr4, 123)))
		_, from, err := world.ReadFromUDPAddrPort(make([]byte, 10))
		if err != nil {
			t.Fatal(err)
		}
		seen[from.String()] = true
	}
	if len(seen) != 2 || !seen[at(cardAddr4, 5000)] {
		t.Errorf("the world sees %v", seen)
	}
}
