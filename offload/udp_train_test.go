package offload

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// sendTrain sends count datagrams of size bytes in one call (UDP_SEGMENT).
func sendTrain(t *testing.T, c *net.UDPConn, to netip.AddrPort, size, count int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 0, size*count)
	for i := range count {
		data = append(data, bytes.Repeat([]byte{byte(i)}, size)...)
	}
	var failed error
	_ = raw.Write(func(fd uintptr) bool {
		if failed = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size); failed != nil {
			return true
		}
		var sa unix.Sockaddr
		if to.IsValid() {
			sa = sockaddr(to)
		}
		failed = unix.Sendto(int(fd), data, 0, sa)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, 0)
		return true
	})
	if failed != nil {
		t.Fatalf("train of %d datagrams of %d bytes: %v", count, size, failed)
	}
}

// TestUDPTrains: the datagrams of a train stay separate, to the wire and to the host, also when the
// wire needs fragments of each.
func TestUDPTrains(t *testing.T) {
	r := newTrial(t, Config{})
	for _, c := range []struct {
		host, remote string
		size, count  int
	}{
		{hostAddr4, worldAddr4, 1200, 40},
		{hostAddr6, worldAddr6, 1200, 40},
		{hostAddr4, worldAddr4, 9000, 7},
		{hostAddr6, worldAddr6, 9000, 7},
	} {
		host, world := r.host.listen(at(c.host, 0)), r.world.listen(at(c.remote, 0))
		there := world.LocalAddr().(*net.UDPAddr).AddrPort()
		// The first makes the flow: trains are for the socket of one.
		for range 2 {
			sendTrain(t, host, there, c.size, c.count)
			from := readTrain(t, world, c.size, c.count)
			for i := range c.count { // the wire cannot carry a train of 9000
				_, _ = world.WriteToUDPAddrPort(bytes.Repeat([]byte{byte(i)}, c.size), from)
			}
			if from := readTrain(t, host, c.size, c.count); from.Port() != there.Port() {
				t.Errorf("answers come from %s, want %s", from, there)
			}
		}
	}
	if s := r.stats(); len(s.Drops) != 0 {
		t.Errorf("drops: %v", s.Drops)
	}
}

func readTrain(t *testing.T, c *net.UDPConn, size, count int) (from netip.AddrPort) {
	t.Helper()
	buf := make([]byte, 1<<16)
	for i := range count {
		n, peer, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatalf("datagram %d of %d: %v", i, count, err)
		}
		if n != size || buf[0] != byte(i) || buf[n-1] != byte(i) {
			t.Fatalf("datagram %d has %d bytes of %d, want %d", i, n, buf[0], size)
		}
		from = peer
	}
	return from
}

// TestUDPNothingAllocated: no allocation for eight datagrams, received and sent.
func TestUDPNothingAllocated(t *testing.T) {
	if n := testing.AllocsPerRun(100, passBatch(t)); n != 0 {
		t.Errorf("%.1f allocations for 8 datagrams", n)
	}
}

func BenchmarkUDPBatch(b *testing.B) {
	pass := passBatch(b)
	b.ReportAllocs()
	for b.Loop() {
		pass()
	}
}

// passBatch receives eight datagrams, decodes them and sends them on.
func passBatch(t testing.TB) func() {
	in, out := newInbox(), newOutbox()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(pair[0]), unix.Close(pair[1]) })
	payload := make([]byte, 1200)
	var d datagram
	return func() {
		for range 8 {
			if _, err := unix.Write(pair[0], payload); err != nil {
				t.Fatal(err)
			}
		}
		n, errno := in.receive(pair[1])
		if n != 8 || errno != 0 {
			t.Fatal(n, errno)
		}
		for i := range n {
			in.get(i, &d)
			out.add(&d, nil, nil, false)
		}
		out.flush(pair[1], nil)
		for range 8 {
			if _, err := unix.Read(pair[0], payload); err != nil {
				t.Fatal(err)
			}
		}
	}
}
