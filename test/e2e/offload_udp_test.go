package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The largest payloads of UDP, in bytes: one packet of what the link carries.
const (
	largestUDP4 = 65535 - 20 - 8
	largestUDP6 = 65535 - 40 - 8
)

// TestEndpointUDP sends datagrams through a card in endpoint mode.
func TestEndpointUDP(t *testing.T) {
	manyFiles(t, 20000)
	o := onWire(t, "")
	o.lockMTU(t)
	answerUDP(t, o.far, 7)
	for _, step := range []struct {
		name string
		walk func(*offloaded, *testing.T)
	}{
		{"largest datagrams are one packet", (*offloaded).udpLargest},
		{"errors reach the socket", (*offloaded).udpErrors},
		{"flows of names expire", (*offloaded).udpExpiry},
		{"thousands of flows", (*offloaded).udpManyFlows},
		{"rate against router mode", (*offloaded).udpRate},
	} {
		t.Run(step.name, func(t *testing.T) { step.walk(o, t) })
	}
}

// lockMTU makes routes like those of link.default_route: sockets that did not ask for path MTU
// discovery do not set DF, so the card serves them.
func (o *offloaded) lockMTU(t *testing.T) {
	t.Helper()
	// No number, which the kernel cuts to 65520, and no gateway, which limits the locked MTU to
	// 576.
	ip(t, "-n", o.netns, "route", "replace", "default", "dev", "toe0", "mtu", "lock", "0")
}

// answerUDP runs an echo server in a namespace until the test ends, in both families.
func answerUDP(t *testing.T, netns string, port int) {
	t.Helper()
	c := bindUDP(t, netns, port)
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	}()
}

func bindUDP(t *testing.T, netns string, port int) (c *net.UDPConn) {
	t.Helper()
	if err := inNetns(netns, func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{Port: port})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetReadBuffer(8 << 20)
	return c
}

func (o *offloaded) dialUDP(t *testing.T, address string, port int) *net.UDPConn {
	t.Helper()
	c, err := dialIn(o.netns, "udp", net.JoinHostPort(address, strconv.Itoa(port)), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.UDPConn)
}

// echoed sends a datagram and expects it back.
func echoed(c *net.UDPConn, size int) error {
	want := bytes.Repeat([]byte("datagram"), size/8+1)[:size]
	if _, err := c.Write(want); err != nil {
		return fmt.Errorf("%d bytes: %w", size, err)
	}
	got := make([]byte, 1<<16)
	n, err := c.Read(got)
	if err != nil {
		return fmt.Errorf("answer of %d bytes: %w", size, err)
	}
	if !bytes.Equal(got[:n], want) {
		return fmt.Errorf("%d bytes come back as %d, or changed", size, n)
	}
	return nil
}

// packets returns how many packets an interface has received and sent.
func packets(t *testing.T, netns, device string) (received, sent int64) {
	t.Helper()
	for i, p := range []*int64{&received, &sent} {
		which := []string{"rx", "tx"}[i]
		text := inside(t, netns, "cat", "/sys/class/net/"+device+"/statistics/"+which+"_packets")
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		*p = n
	}
	return received, sent
}

func (o *offloaded) udpLargest(t *testing.T) {
	for _, c := range []struct {
		address string
		size    int
		made    string
	}{{worldAddr, largestUDP4, "Ip.FragCreates"}, {worldAddr6, largestUDP6, "Ip6FragCreates"}} {
		conn := o.dialUDP(t, c.address, 7)
		if err := echoed(conn, 1); err != nil { // neighbours on the wire, the flow
			t.Fatal(err)
		}
		fragments := counters(t, o.far)[c.made]
		received, sent := packets(t, o.netns, "toe0")
		const rounds = 20
		for range rounds {
			if err := echoed(conn, c.size); err != nil {
				t.Fatal(err)
			}
		}
		receivedNow, sentNow := packets(t, o.netns, "toe0")
		// A few belong to others: the card's clock and control connection.
		if in, out := receivedNow-received, sentNow-sent; in < rounds || in > rounds+10 || out < rounds || out > rounds+10 {
			t.Errorf("%s: %d datagrams each way were %d packets to the host and %d from it", c.address, rounds, in, out)
		}
		if n := counters(t, o.far)[c.made] - fragments; n < 40*rounds {
			t.Errorf("%s: %s of the world grew by %d: the wire has other packets than expected", c.address, c.made, n)
		}
	}
	o.clean(t)
}

// udpErrors: a socket with IP_RECVERR gets the errors of a router and a host on the wire, and of
// the card itself.
func (o *offloaded) udpErrors(t *testing.T) {
	for _, c := range []struct {
		name, address string
		want          error
	}{
		// First: the world's kernel answers so once a second at most, after it
		// has sent another ICMP error.
		{"a router says unreachable", noHost, unix.EHOSTUNREACH},
		{"a router says unreachable, IPv6", noHost6, unix.EHOSTUNREACH},
		{"closed port", worldAddr, unix.ECONNREFUSED},
		{"closed port, IPv6", worldAddr6, unix.ECONNREFUSED},
		{"no host has the address", "192.0.2.99", unix.EHOSTUNREACH},
	} {
		conn := o.dialUDP(t, c.address, 5)
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1)
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
		})
		_, _ = conn.Write([]byte("anybody there?"))
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// udpManyFlows: each endpoint of the host has a mapping, and none is lost.
func (o *offloaded) udpManyFlows(t *testing.T) {
	const endpoints = 3000
	before := o.procFile(t, "card0", "meminfo")["MemAvailable"]
	began := time.Now()
	var all []*net.UDPConn
	for range endpoints {
		all = append(all, o.dialUDP(t, worldAddr, 7))
	}
	for round := range 2 {
		for i, c := range all {
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			if err := echoed(c, 100); err != nil {
				t.Fatalf("endpoint %d, round %d: %v", i, round, err)
			}
		}
	}
	used := before - o.procFile(t, "card0", "meminfo")["MemAvailable"]
	t.Logf("%d flows in %s, %.1f KiB of the card's memory for each", endpoints, time.Since(began).Round(time.Millisecond), float64(used)/endpoints)
	until(t, 5*time.Second, "flows to be counted", func() error {
		if udp := o.status(t, "card0").Offload.UDP; udp.Flows < endpoints || len(udp.Drops) > 0 {
			return fmt.Errorf("%d flows, drops %v; want %d and none", udp.Flows, udp.Drops, endpoints)
		}
		return nil
	})
}

// udpExpiry: a resolver's session expires.
func (o *offloaded) udpExpiry(t *testing.T) {
	answerUDP(t, o.far, 53)
	for range 50 {
		if err := echoed(o.dialUDP(t, worldAddr, 53), 40); err != nil {
			t.Fatal(err)
		}
	}
	most := uint64(0)
	until(t, 5*time.Second, "50 flows to be counted", func() error {
		if most = o.flows(t); most < 50 {
			return fmt.Errorf("%d flows", most)
		}
		return nil
	})
	until(t, 20*time.Second, "50 flows to a name server to expire", func() error {
		if n := o.flows(t); n > most-50 {
			return fmt.Errorf("%d flows, %d at most", n, most)
		}
		return nil
	})
}

func (o *offloaded) flows(t *testing.T) uint64 {
	t.Helper()
	return o.status(t, "card0").Offload.UDP.Flows
}

// udpRate compares only figures of this run: datagrams of 1200 bytes, as QUIC sends them, in trains
// and one by one, and datagrams of the largest size that programs send, which need 41 fragments.
func (o *offloaded) udpRate(t *testing.T) {
	got := map[string]float64{}
	for _, mode := range []string{"endpoint", "router"} {
		for _, l := range loads {
			got[mode+l.String()] = o.blast(t, l)
		}
		if mode == "endpoint" { // in router mode the host makes fragments
			o.clean(t)
			o.mode(t, "router", "")
		}
	}
	for _, l := range loads {
		e, r := got["endpoint"+l.String()], got["router"+l.String()]
		t.Logf("%s: %.0f datagrams a second arrive in endpoint mode, %.0f in router mode: %.2f of it", l, e, r, e/r)
		// Both depend on the other load of this machine.
		if e < r/10 || e == 0 {
			t.Errorf("%s: less than a tenth of router mode's rate", l)
		}
	}
}

// load is the traffic that a sender sends as fast as it can.
type load struct {
	toHost      bool
	size, train int
}

func (l load) String() string {
	return fmt.Sprintf("to host %t, %d bytes, trains of %d", l.toHost, l.size, l.train)
}

var loads = []load{{false, 1200, 1}, {false, 1200, 40}, {false, 60000, 1}, {true, 1200, 1}, {true, 1200, 40}, {true, 60000, 1}}

// blast sends for two seconds, and counts what arrives.
func (o *offloaded) blast(t *testing.T, l load) (perSecond float64) {
	t.Helper()
	far := bindUDP(t, o.far, 0)
	defer far.Close()
	near := o.dialUDP(t, worldAddr, far.LocalAddr().(*net.UDPAddr).Port)
	_ = near.SetReadBuffer(8 << 20)
	var host netip.AddrPort
	until(t, 10*time.Second, "a datagram to get through", func() (err error) {
		_, _ = near.Write([]byte("here I am"))
		_ = far.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, host, err = far.ReadFromUDPAddrPort(make([]byte, 100))
		return err
	})
	from, to, address := near, far, unix.Sockaddr(nil)
	if l.toHost {
		from, to = far, near
		address = &unix.SockaddrInet6{Port: int(host.Port()), Addr: host.Addr().As16()}
	}
	_ = to.SetReadDeadline(time.Now().Add(2200 * time.Millisecond))
	count := make(chan int)
	go func() { count <- arrivals(to) }()
	send(t, from, address, l)
	return float64(<-count) / 2
}

func arrivals(c *net.UDPConn) (n int) {
	buf := make([]byte, 1<<16)
	for {
		if _, _, err := c.ReadFromUDPAddrPort(buf); err != nil {
			return n
		}
		n++
	}
}

func send(t *testing.T, c *net.UDPConn, to unix.Sockaddr, l load) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, l.size*l.train)
	_ = raw.Control(func(fd uintptr) {
		if l.train > 1 {
			err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, l.size)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second))
	for began := time.Now(); time.Since(began) < 2*time.Second; {
		_ = raw.Write(func(fd uintptr) bool {
			return !errors.Is(unix.Sendto(int(fd), data, 0, to), unix.EAGAIN)
		})
	}
}
