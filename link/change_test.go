package link

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/vhostuser"
)

// tcp makes an IPv4 TCP packet with an unfinished checksum, and the header of
// a packet socket that says so.
func tcp(src, dst [4]byte, size, segment int) (vnet, []byte) {
	b := fakecard.UDP(src, dst, 1000, 2000, size)
	b[9] = 6
	b[10], b[11] = 0, 0
	s := uint32(0)
	for i := 0; i < 20; i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	binary.BigEndian.PutUint16(b[10:], ^uint16(s+s>>16))
	copy(b[24:40], []byte{0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0})
	h := vnet{frame.NeedsCSum}
	if segment > 0 {
		h[1] = frame.GSOTCPv4
		binary.LittleEndian.PutUint16(h[2:], 40)
		binary.LittleEndian.PutUint16(h[4:], uint16(segment))
	}
	binary.LittleEndian.PutUint16(h[6:], 20)
	binary.LittleEndian.PutUint16(h[8:], 16)
	return h, b
}

func u16(b []byte, off int) uint16 { return binary.LittleEndian.Uint16(b[off:]) }

// Checksum and segmentation fields move by the Ethernet head on their way to
// the card, and back on their way to the host.
func TestHeaderTranslation(t *testing.T) {
	w := newWorld(t, worldOptions{})
	buf := make([]byte, fakecard.FrameMax)
	for _, c := range []struct {
		size, segment int
		kind          byte
	}{{1000, 0, frame.GSONone}, {9000, 1448, frame.GSOTCPv4}, {65000, 1448, frame.GSOTCPv4}} {
		h, p := tcp(hostIP, cardIP, c.size, c.segment)
		w.send(t, h, p)
		n, err := w.card.Recv(buf)
		if err != nil {
			t.Fatal(err)
		}
		got := buf[:n]
		if got[0] != frame.NeedsCSum || got[1] != c.kind || u16(got, 4) != uint16(c.segment) || u16(got, 6) != 34 || u16(got, 8) != 16 || u16(got, 2) != 0 {
			t.Errorf("%d bytes to the card: header % x", c.size, got[:12])
		}
		if want := (n + 4095) / 4096; int(u16(got, 10)) != want {
			t.Errorf("%d bytes to the card: num_buffers %d, want %d", c.size, u16(got, 10), want)
		}
		if !bytes.Equal(got[frame.SeamLen:], p) {
			t.Errorf("%d bytes to the card: packet changed", c.size)
		}

		h, p = tcp(cardIP, hostIP, c.size, c.segment)
		f := fakecard.Frame(p)
		copy(f, h[:])
		binary.LittleEndian.PutUint16(f[6:], 34)
		if err := w.card.Send(f); err != nil {
			t.Fatal(err)
		}
		back, b := w.want(t)
		if back[0] != frame.NeedsCSum || back[1] != c.kind || u16(back[:], 4) != uint16(c.segment) || u16(back[:], 6) != 20 || u16(back[:], 8) != 16 {
			t.Errorf("%d bytes to the host: header % x", c.size, back)
		}
		if !bytes.Equal(b, p) {
			t.Errorf("%d bytes to the host: packet changed", c.size)
		}
	}
}

// A TAP carries whole Ethernet frames, whatever their type, and nothing moves.
func TestTAP(t *testing.T) {
	for name, o := range map[string]fakecard.Options{"plain": {}, "no mergeable": {NoMergeable: true}, "small buffers": {Buffer: 64, Size: 1024}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{tap: true, card: o})
			buf := make([]byte, fakecard.FrameMax)
			for _, n := range []int{60, 61, 1514, 9000, 65000} {
				f := make([]byte, n)
				for i := range f {
					f[i] = byte(i * 7)
				}
				copy(f, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5})
				w.send(t, vnet{}, f)
				got, err := w.card.Recv(buf)
				if err != nil || !bytes.Equal(buf[frame.HeaderLen:got], f) {
					t.Fatalf("%d bytes to the card: %d, %v", n, got, err)
				}
				if err := w.card.Send(append(make([]byte, frame.HeaderLen), f...)); err != nil {
					t.Fatal(err)
				}
				if _, b := w.want(t); !bytes.Equal(b, f) {
					t.Fatalf("%d bytes to the host arrived as %d", n, len(b))
				}
			}
			if err := w.card.Send(make([]byte, frame.HeaderLen+13)); err != nil {
				t.Fatal(err)
			}
			w.stat(t, "short", func(s QueueStats) uint64 { return s.ToHost.Drops.Short }, 1)
		})
	}
}

// newStreamWorld has a stream socket for the host's end.
func newStreamWorld(t testing.TB, o fakecard.Options) (*world, net.Conn) {
	t.Helper()
	return newStreamWorldOn(t, worldOptions{card: o})
}

func newStreamWorldOn(t testing.TB, o worldOptions) (*world, net.Conn) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if o.process { // else with what there is by default
		for _, fd := range pair {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, SendBuffer); err != nil {
				t.Fatal(err)
			}
		}
	}
	ours := os.NewFile(uintptr(pair[0]), "stream")
	peer, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	o.device = func(d *Device) { d.Seam, d.Stream = false, true }
	w := newWorldOn(t, &host{sock: -1, files: []*os.File{os.NewFile(uintptr(pair[1]), "stream")}}, o)
	peer.SetDeadline(time.Now().Add(20 * time.Second))
	return w, peer
}

func streamed(n int, seed byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(n))
	for i := range n {
		b = append(b, byte(i)*seed+seed)
	}
	return b
}

func readFull(t testing.TB, c net.Conn, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	for got := 0; got < n; {
		k, err := c.Read(b[got:])
		if err != nil {
			t.Fatalf("stream: %d of %d bytes: %v", got, n, err)
		}
		got += k
	}
	return b
}

// Frames go over a stream socket, in one piece and in many, to a slow reader. None
// is lost or torn.
func TestStream(t *testing.T) {
	w, peer := newStreamWorld(t, fakecard.Options{})
	buf := make([]byte, fakecard.FrameMax)
	for i, n := range []int{14, 15, 60, 1514, 9000, 65535} {
		f := streamed(n, byte(i+1))
		if i%2 == 0 {
			peer.Write(f)
		} else {
			for len(f) > 0 {
				k := min(1+len(f)/3, len(f))
				peer.Write(f[:k])
				f = f[k:]
				time.Sleep(time.Millisecond)
			}
			f = streamed(n, byte(i+1))
		}
		got, err := w.card.Recv(buf)
		if err != nil || !bytes.Equal(buf[frame.HeaderLen:got], f[4:]) {
			t.Fatalf("%d bytes to the card: %d, %v", n, got, err)
		}
	}
	// Far more than the socket holds, before anything is read.
	const many, size = 200, 9000
	sent := make(chan error, 1)
	go func() {
		for i := range many {
			if err := w.card.Send(append(make([]byte, frame.HeaderLen), streamed(size, byte(i))[4:]...)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	time.Sleep(20 * time.Millisecond)
	for i := range many {
		if b := readFull(t, peer, size+4); !bytes.Equal(b, streamed(size, byte(i))) {
			t.Fatalf("frame %d is torn", i)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// A stream that breaks the protocol or ends is reported, and the card's frames
// are refused. Nothing spins or wedges.
func TestStreamEnds(t *testing.T) {
	for name, end := range map[string]func(net.Conn){
		"hang-up":       func(c net.Conn) { c.Close() },
		"length 0":      func(c net.Conn) { c.Write([]byte{0, 0, 0, 0}) },
		"length 13":     func(c net.Conn) { c.Write([]byte{0, 0, 0, 13}) },
		"length 4 GiB":  func(c net.Conn) { c.Write([]byte{0xff, 0xff, 0xff, 0xff}) },
		"a byte, a end": func(c net.Conn) { c.Write([]byte{0}); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			w, peer := newStreamWorld(t, fakecard.Options{})
			end(peer)
			w.hasEvent(t, "stream")
			_, tx := w.card.Pair(0)
			for range 300 {
				if err := w.card.Send(make([]byte, 72)); err != nil {
					t.Fatal(err)
				}
			}
			if err := tx.Flush(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// flow sends numbered packets both ways until stop, and checks what arrives.
type flow struct {
	w                 *world
	stop              atomic.Bool
	done              chan error
	sent, lost, twice int
}

// number is where a packet carries its number.
func number(p []byte) *[8]byte { return (*[8]byte)(p[28:]) }

// toHost runs until stop and counts what was lost or came twice.
func (w *world) flowToHost(t testing.TB) *flow {
	f := &flow{w: w, done: make(chan error, 1)}
	var sent atomic.Uint64
	go func() {
		for n := uint64(1); !f.stop.Load(); n++ {
			p := fakecard.UDP(cardIP, hostIP, 1, 2, 200)
			binary.LittleEndian.PutUint64(number(p)[:], n)
			if err := w.card.Send(fakecard.Frame(p)); err != nil {
				f.done <- err
				return
			}
			sent.Store(n)
			if n%32 == 0 {
				time.Sleep(100 * time.Microsecond)
			}
		}
		_, tx := w.card.Pair(0)
		f.done <- tx.Flush()
	}()
	t.Cleanup(func() { f.stop.Store(true) })
	return f
}

// count reads what the host got: numbers must rise, but for those in flight
// when a pump died.
func (f *flow) count(t testing.TB) {
	seen := map[uint64]bool{}
	last := uint64(0)
	for {
		_, b, ok := f.w.recv(t, 100)
		if !ok {
			break
		}
		n := binary.LittleEndian.Uint64(number(b)[:])
		if seen[n] {
			f.twice++
		}
		seen[n] = true
		last = max(last, n)
	}
	f.sent, f.lost = int(last), int(last)-len(seen)
}

// A pump that is killed under traffic is replaced. At most the packets in flight
// are lost or doubled. Neither card nor host is notified.
func TestPumpKilled(t *testing.T) {
	w := newWorld(t, worldOptions{process: true})
	w.passes(t)
	f := w.flowToHost(t)
	const kills = 3
	for range kills {
		time.Sleep(30 * time.Millisecond)
		old := w.k.PumpPID()
		if old <= 0 {
			t.Fatal("no pump")
		}
		unix.Kill(old, unix.SIGKILL)
		for deadline := time.Now().Add(5 * time.Second); w.k.PumpPID() == old || w.k.PumpPID() == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no other pump within 5 s")
			}
		}
	}
	time.Sleep(30 * time.Millisecond)
	f.stop.Store(true)
	if err := <-f.done; err != nil {
		t.Fatalf("%v; %+v", err, w.k.Stats())
	}
	f.count(t)
	t.Logf("%d packets, %d lost, %d twice, over %d kills; %q", f.sent, f.lost, f.twice, kills, w.news())
	if f.sent < 100 {
		t.Errorf("only %d packets got through", f.sent)
	}
	// In flight is what one ring holds.
	if f.lost > kills*256 || f.twice > kills*256 {
		t.Errorf("%d lost, %d twice, with %d kills and rings of 256", f.lost, f.twice, kills)
	}
	w.passes(t)
	w.hasEvent(t, "replaced by")
}

// A killed pump with the receive ring half used: not one buffer is lost.
func TestPumpKilledTowardsCard(t *testing.T) {
	w := newWorld(t, worldOptions{process: true})
	for range 3 {
		for range 100 {
			w.down(t)
		}
		old := w.k.PumpPID()
		unix.Kill(old, unix.SIGKILL)
		w.down(t) // waits in the TUN until the next pump is there
		for range 200 {
			w.down(t)
		}
	}
}

// receives passes a large packet to the card while the other way is in use.
func (w *world) receives(t testing.TB, i int) {
	t.Helper()
	p := fakecard.UDP(hostIP, cardIP, uint16(i), 3, 20000)
	w.send(t, vnet{}, p)
	rx, _ := w.card.Pair(0)
	buf := make([]byte, fakecard.FrameMax)
	n, err := rx.Recv(buf)
	if err != nil || !bytes.Equal(buf[frame.SeamLen:n], p) {
		t.Fatalf("change %d: %d bytes, %v; %+v", i, n, err, w.k.Stats())
	}
}

// The memory table changes while rings run: no packet is lost, and a table
// that does not hold the rings is refused and changes nothing.
func TestMemoryChanges(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.passes(t)
	f := w.flowToHost(t)
	size := uint64(len(w.card.Memory()))
	for i := range 60 {
		pieces := []fakecard.Region{{Offset: 0, Size: size}}
		if i%2 == 0 {
			const cut = 4 << 20
			pieces = []fakecard.Region{{Offset: 0, Size: cut}, {Offset: cut, Size: size - cut}}
		}
		if err := w.card.SetMemory(pieces...); err != nil {
			t.Fatal(err)
		}
		w.receives(t, i) // the window of taken buffers moved too
		if i%10 == 5 {
			if err := w.card.SetMemory(fakecard.Region{Offset: 0, Size: 4096}); err == nil {
				t.Fatal("a table without the rings was taken")
			}
		}
	}
	f.stop.Store(true)
	if err := <-f.done; err != nil {
		t.Fatal(err)
	}
	f.count(t)
	if f.lost > 0 || f.twice > 0 || f.sent == 0 {
		t.Errorf("%d packets, %d lost, %d twice", f.sent, f.lost, f.twice)
	}
	w.passes(t)
}

// Rings stop and start again, and front ends come and go.
func TestRestart(t *testing.T) {
	w := newWorld(t, worldOptions{card: fakecard.Options{Base: 65530}})
	for range 10 {
		w.passes(t)
		_, tx := w.card.Pair(0)
		if err := tx.Flush(); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			base, err := w.card.Stop(i)
			if err != nil {
				t.Fatal(err)
			}
			if i == 1 && base != tx.AvailIdx() {
				t.Errorf("the send ring stopped at %d, want %d", base, tx.AvailIdx())
			}
			if err := w.card.Restart(i); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 10 {
		w.passes(t)
		w.card.Hangup()
		if err := w.card.Redial(w.path); err != nil {
			t.Fatal(err)
		}
	}
	w.passes(t)
}

// An offload that the driver does not accept is not used. Without checksum offload
// the host's kernel completes the checksums itself.
func TestFewFeatures(t *testing.T) {
	w := newWorld(t, worldOptions{card: fakecard.Options{Refuse: 0xffff&^vhostuser.NetMAC | vhostuser.NetGuestUSO4 | vhostuser.NetGuestUSO6 | vhostuser.NetHostUSO}})
	h, p := tcp(hostIP, cardIP, 1000, 0)
	w.send(t, h, p)
	buf := make([]byte, fakecard.FrameMax)
	n, err := w.card.Recv(buf)
	if err != nil {
		t.Fatal(err)
	}
	if buf[0]&frame.NeedsCSum != 0 || bytes.Equal(buf[frame.SeamLen:n], p) {
		t.Errorf("checksum left to a driver that did not offer: % x", buf[:12])
	}
	w.up(t)
}

// Two queue pairs: each sends, and what the host sends arrives on one of them.
func TestTwoPairs(t *testing.T) {
	w := newWorld(t, worldOptions{card: fakecard.Options{Pairs: 2}})
	for i := range 2 {
		_, tx := w.card.Pair(i)
		p := fakecard.UDP(cardIP, hostIP, uint16(i), 2, 500)
		for range 300 {
			if err := tx.Send(fakecard.Frame(p)); err != nil {
				t.Fatal(err)
			}
			if _, b := w.want(t); !bytes.Equal(b, p) {
				t.Fatalf("pair %d: the host got % x", i, b[:28])
			}
		}
	}
	for i := range 64 {
		w.send(t, vnet{}, fakecard.UDP(hostIP, cardIP, uint16(1000+i), 2, 500))
	}
	got := 0
	for deadline := time.Now().Add(3 * time.Second); got < 64 && time.Now().Before(deadline); {
		for i := range 2 {
			rx, _ := w.card.Pair(i)
			n, _, err := rx.Drain(64)
			if err != nil {
				t.Fatal(err)
			}
			got += n
		}
	}
	if got != 64 {
		t.Errorf("%d of 64 packets arrived", got)
	}
}

// A packet costs no allocation: in 100,000 of them the whole process, pump,
// driver and test, makes only what the test itself makes.
func TestNoAllocations(t *testing.T) {
	w := newWorld(t, worldOptions{})
	rx, tx := w.card.Pair(0)
	p := fakecard.Frame(fakecard.UDP(cardIP, hostIP, 1, 2, 300))
	if err := tx.Prefill(p); err != nil {
		t.Fatal(err)
	}
	down := append(make([]byte, 10), fakecard.UDP(hostIP, cardIP, 1, 2, 300)...)
	both := func(n int) {
		for sent, got := 0, 0; sent < n || got < n; {
			k, err := tx.SendPrefilled(min(64, n-sent))
			if err != nil {
				t.Fatal(err)
			}
			sent += k
			for range min(64, n-got) {
				unix.Write(w.sock, down)
			}
			if err := rx.WaitRecv(); err != nil {
				t.Fatal(err)
			}
			k, _, err = rx.Drain(1000)
			if err != nil {
				t.Fatal(err)
			}
			got += k
			if err := tx.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	both(2000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const packets = 50000
	both(packets)
	runtime.ReadMemStats(&after)
	// The runtime's own (timers, parked threads) stay far below one in a
	// thousand packets.
	if n := after.Mallocs - before.Mallocs; n > 100 {
		t.Errorf("%d allocations of %d bytes for %d packets each way", n, after.TotalAlloc-before.TotalAlloc, packets)
	}
}
