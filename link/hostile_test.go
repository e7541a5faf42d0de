package link

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/vhostuser"
)

// passes fails unless a packet passes both ways: nothing is wedged.
func (w *world) passes(t testing.TB) {
	t.Helper()
	w.up(t)
	w.down(t)
}

func (w *world) up(t testing.TB) {
	t.Helper()
	p := fakecard.UDP(cardIP, hostIP, 1, 2, 100)
	if err := w.card.Send(fakecard.Frame(p)); err != nil {
		t.Fatal(err)
	}
	if _, b := w.want(t); !bytes.Equal(b, p) {
		t.Fatalf("the host got % x", b)
	}
}

func (w *world) down(t testing.TB) {
	t.Helper()
	p := fakecard.UDP(hostIP, cardIP, 1, 2, 100)
	w.send(t, vnet{}, p)
	buf := make([]byte, fakecard.FrameMax)
	n, err := w.card.Recv(buf)
	if err != nil {
		t.Fatalf("%v; %+v", err, w.k.Stats())
	}
	if !bytes.Equal(buf[frame.SeamLen:n], p) {
		t.Fatalf("the card got % x", buf[:n])
	}
}

// Frames that must not reach the TUN, each counted by its cause: short ones
// (CVE-2024-41090, 41091, CVE-2026-46320 to 46322), bad checksum or GSO fields
// (CVE-2026-100236, CVE-2023-6693), and all that is not IP.
func TestDrops(t *testing.T) {
	ip := func(n int) []byte { return fakecard.Frame(fakecard.UDP(cardIP, hostIP, 1, 2, n)) }
	set := func(b []byte, off int, v uint16) []byte { binary.LittleEndian.PutUint16(b[off:], v); return b }
	kind := func(b []byte, flags, gso byte) []byte { b[0], b[1] = flags, gso; return b }
	short, notIP := func(d Drops) uint64 { return d.Short }, func(d Drops) uint64 { return d.NotIP }
	header, long := func(d Drops) uint64 { return d.Header }, func(d Drops) uint64 { return d.Long }
	w := newWorld(t, worldOptions{card: fakecard.Options{SendBuffer: 70000}})
	counted := map[string]uint64{}
	for _, c := range []struct {
		name  string
		b     []byte
		cause string
		get   func(Drops) uint64
	}{
		{"one byte", make([]byte, 1), "short", short},
		{"half a virtio header", make([]byte, 11), "short", short},
		{"virtio header alone", make([]byte, 12), "short", short},
		{"half an Ethernet head", make([]byte, 20), "short", short},
		{"seam alone", ip(28)[:frame.SeamLen], "short", short},
		{"one byte of packet", ip(28)[:frame.SeamLen+1], "short", short},
		{"19 bytes of packet", ip(28)[:frame.SeamLen+19], "short", short},
		{"39 bytes of IPv6", fakecard.Frame(append([]byte{0x60}, make([]byte, 38)...)), "short", short},
		{"a byte too long", fakecard.Frame(append(fakecard.UDP(cardIP, hostIP, 1, 2, 65535), 0)), "long", long},
		{"ARP", append(append(make([]byte, 24), 8, 6), make([]byte, 28)...), "not_ip", notIP},
		{"VLAN", append(append(make([]byte, 24), 0x81, 0), make([]byte, 40)...), "not_ip", notIP},
		{"IPv6 behind IPv4's type", append(append(make([]byte, 24), 8, 0), append([]byte{0x60}, make([]byte, 60)...)...), "not_ip", notIP},
		{"UFO", set(set(kind(ip(3000), 1, 3), 6, 34), 4, 1400), "header", header},
		{"GSO without checksum", set(kind(ip(3000), 0, 1), 4, 1400), "header", header},
		{"GSO of size 0", set(set(kind(ip(3000), 1, 1), 6, 34), 8, 16), "header", header},
		{"checksum behind the end", set(set(kind(ip(100), 1, 0), 6, 34), 8, 500), "header", header},
		{"checksum at 65535", set(set(kind(ip(100), 1, 0), 6, 0xffff), 8, 0xffff), "header", header},
	} {
		if err := w.card.Send(c.b); err != nil {
			t.Fatal(err)
		}
		counted[c.cause]++
		w.stat(t, c.name, func(s QueueStats) uint64 { return c.get(s.ToHost.Drops) }, counted[c.cause])
	}
	if _, b, ok := w.recv(t, 20); ok {
		t.Errorf("the host got % x", b[:min(len(b), 64)])
	}
	w.passes(t)
}

// A packet on the host that is not IP comes out of a TUN only from a packet
// socket. It is dropped and counted, and the next one passes.
func TestHostSendsNoIP(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.send(t, vnet{}, append([]byte{0x15}, make([]byte, 60)...))
	w.stat(t, "not IP", func(s QueueStats) uint64 { return s.ToCard.Drops.NotIP }, 1)
	w.passes(t)
}

// Errors wedge nothing (OpenVMM 4045, cloud-hypervisor 8142, 8401): many bad
// chains among good ones, both ways; each comes back with length 0, is counted,
// and the good ones pass.
func TestBadChainsBetweenGoodOnes(t *testing.T) {
	w := newWorld(t, worldOptions{})
	_, tx := w.card.Pair(0)
	bad := 0
	for round := range 20 {
		for _, d := range []fakecard.Desc{
			{Addr: 0, Len: 100},
			{Addr: ^uint64(0) - 5, Len: 100},
			{Addr: tx.BufferAddr(0), Len: 100, Flags: fakecard.Write},
			{Addr: tx.BufferAddr(0), Len: 100, Flags: fakecard.Next, Next: 300},
			{Addr: tx.DescAddr(), Len: 4096, Flags: fakecard.Indirect},
			{Addr: tx.BufferAddr(0), Len: 1 << 30},
		} {
			tx.SendRaw(d)
			bad++
		}
		w.up(t)
		if err := tx.Flush(); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	w.stat(t, "bad chains", func(s QueueStats) uint64 { return s.ToHost.BadChains }, uint64(bad))
	w.stat(t, "broken", func(s QueueStats) uint64 { return s.ToHost.Broken }, 0)
}

// The same towards the card: receive buffers that cannot be used, among them
// one shorter than the header (CVE-2026-86566).
func TestBadReceiveBuffers(t *testing.T) {
	w := newWorld(t, worldOptions{card: fakecard.Options{Disabled: true}})
	rx, _ := w.card.Pair(0)
	// All 256 buffers are posted: spoil some of them in place.
	for i, d := range []fakecard.Desc{
		{Addr: rx.BufferAddr(0), Len: 4096}, // not for writing
		{Addr: rx.BufferAddr(1), Len: 25, Flags: fakecard.Write},
		{Addr: rx.BufferAddr(2), Len: 0, Flags: fakecard.Write},
		{Addr: 0, Len: 4096, Flags: fakecard.Write},
	} {
		rx.SetDesc(60*i, d)
	}
	for i := range 2 {
		if err := w.card.Enable(i, true); err != nil {
			t.Fatal(err)
		}
	}
	// A packet that needs several buffers may be lost to a bad one among
	// them, which is the driver's fault. Small packets all pass.
	for range 300 {
		w.down(t)
	}
	w.up(t)
	if n := w.k.Stats()[0].ToCard.BadChains; n < 4 {
		t.Errorf("%d bad chains counted, want 4 or more", n)
	}
}

// Only the broken ring stops. It is counted and reported, and its error descriptor
// is signalled. The other direction goes on, and a restart repairs the ring.
func TestBrokenRingStopsAlone(t *testing.T) {
	for name, make := range map[string]func(*fakecard.Ring){
		"avail index jumps": func(r *fakecard.Ring) { r.SetAvailIdx(r.AvailIdx() + 1000); r.Kick() },
		"head out of range": func(r *fakecard.Ring) {
			r.SetAvail(int(r.AvailIdx())&255, 60000)
			r.SetAvailIdx(r.AvailIdx() + 1)
			r.Kick()
		},
		"1024 bad chains": func(r *fakecard.Ring) {
			for range 1024 {
				r.SendRaw(fakecard.Desc{Len: 1})
				r.Flush()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			_, tx := w.card.Pair(0)
			w.passes(t)
			make(tx)
			w.stat(t, "broken", func(s QueueStats) uint64 { return s.ToHost.Broken }, 1)
			for range 10 {
				w.down(t)
			}
			if !tx.Broken() {
				t.Error("the error descriptor was not signalled")
			}
			w.hasEvent(t, "ring 1 stopped")
			if _, err := w.card.Stop(1); err != nil {
				t.Fatal(err)
			}
			if err := w.card.Restart(1); err != nil {
				t.Fatal(err)
			}
			w.passes(t)
		})
	}
}

// A disabled pair gets nothing from the host, and packets that the card sends on
// it are consumed and discarded.
func TestDisabled(t *testing.T) {
	w := newWorld(t, worldOptions{card: fakecard.Options{Disabled: true}})
	_, tx := w.card.Pair(0)
	for range 300 { // more than the ring
		if err := w.card.Send(fakecard.Frame(fakecard.UDP(cardIP, hostIP, 1, 2, 100))); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Flush(); err != nil {
		t.Fatal(err)
	}
	w.stat(t, "disabled", func(s QueueStats) uint64 { return s.ToHost.Drops.Disabled }, 300)
	if _, b, ok := w.recv(t, 20); ok {
		t.Errorf("the host got %d bytes", len(b))
	}
	for i := range 2 {
		if err := w.card.Enable(i, true); err != nil {
			t.Fatal(err)
		}
	}
	w.passes(t)
}

// A receive window too small for one 64K segment (slirp4netns 128) drops and
// counts what does not fit, and stalls nothing.
func TestWindowTooSmall(t *testing.T) {
	for _, c := range []struct {
		o        fakecard.Options
		fit, not int
	}{
		{fakecard.Options{Size: 8}, 32000, 33000},
		{fakecard.Options{Size: 16}, 65000, 65535},
		{fakecard.Options{Size: 32, Buffer: 1536}, 48000, 50000}, // MTU 48K
		{fakecard.Options{Size: 1, Buffer: 2000}, 1500, 9000},
		{fakecard.Options{NoMergeable: true, Buffer: 1536}, 1500, 9000},
	} {
		w := newWorld(t, worldOptions{card: c.o})
		buf := make([]byte, fakecard.FrameMax)
		for i := range 30 {
			w.send(t, vnet{}, fakecard.UDP(hostIP, cardIP, 1, 2, c.not))
			p := fakecard.UDP(hostIP, cardIP, 1, 2, c.fit)
			w.send(t, vnet{}, p)
			n, err := w.card.Recv(buf)
			if err != nil || !bytes.Equal(buf[frame.SeamLen:n], p) {
				t.Fatalf("%+v, round %d: %d bytes, %v; %+v", c.o, i, n, err, w.k.Stats())
			}
		}
		w.stat(t, "too small", func(s QueueStats) uint64 { return s.ToCard.Drops.TooSmall }, 30)
	}
}

// Unbounded work in one turn (CVE-2019-3900): the card sends frames as fast as it
// can, all of them dropped. Packets towards it and orders still get through.
func TestBoundedTurn(t *testing.T) {
	w := newWorld(t, worldOptions{process: true, card: fakecard.Options{Size: 1024}})
	_, tx := w.card.Pair(0)
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		tx.Prefill(make([]byte, 20))
		for {
			select {
			case <-stop:
				stopped <- tx.Flush()
				return
			default:
				tx.SendPrefilled(1024)
			}
		}
	}()
	for range 100 {
		w.down(t)
	}
	began := time.Now()
	for range 10 {
		if _, err := w.card.Front.Get(vhostuser.GetFeatures); err != nil {
			t.Fatal(err)
		}
		if err := w.card.Enable(0, true); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(began); d > 3*time.Second { // an unanswered order takes 5 s
		t.Errorf("10 orders took %s", d)
	}
	close(stop)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if w.k.Stats()[0].ToHost.Drops.Short == 0 {
		t.Error("nothing was dropped meanwhile")
	}
}
