package offload

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/loop"
)

// joined is a flow between two connections over loopback, seen from their other ends: a program on
// the host, and one at the far end of the wire.
type joined struct {
	tcp        *tcp
	host, wire *net.TCPConn
}

// makeLoop is loop.New, or loop.NewEpoll in TestFlowsOverEpoll.
var makeLoop = loop.New

// newFlow joins two connections. TPROXY, which comes before, needs a card; the rest does not.
func newFlow(t *testing.T) joined {
	t.Helper()
	if l, err := net.Listen("tcp4", "127.0.0.1:0"); err == nil {
		l.Close() // Go's own poller has its descriptors from now on
	}
	before := descriptors(t)
	l, err := makeLoop()
	if err != nil {
		t.Fatal(err)
	}
	j := joined{tcp: &tcp{loop: l, flows: map[*flow]bool{}, pipes: pipes{room: 16 << 20}, count: TCPStats{Drops: map[string]uint64{}}}}
	host, a := connected(t)
	wire, b := connected(t)
	j.host, j.wire = host, wire
	go l.Run()
	l.Do(func() { j.tcp.join(a, b, false) })
	t.Cleanup(func() {
		host.Close()
		wire.Close()
		l.Do(func() {
			for f := range j.tcp.flows {
				f.reset()
			}
			j.tcp.pipes.close()
			if j.tcp.pipes.held != 0 {
				t.Errorf("%d bytes are said to be in pipes, of none", j.tcp.pipes.held)
			}
		})
		l.Stop()
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
	return j
}

// connected gives a connection: one end for a program, the other for a flow.
func connected(t *testing.T) (*net.TCPConn, int) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialTCP("tcp4", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	fd := -1
	if err := raw.Control(func(at uintptr) { fd, _ = unix.FcntlInt(at, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || fd < 0 {
		t.Fatal("no duplicate of a socket", err)
	}
	if err := errors.Join(setLinger(fd), unix.SetNonblock(fd, true)); err != nil {
		t.Fatal(err)
	}
	for _, o := range connection {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c, fd
}

// setLinger makes close(2) reset a connection.
func setLinger(fd int) error {
	return unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func (j joined) stats() (s TCPStats) {
	j.tcp.loop.Do(func() { s = j.tcp.count; s.Open = uint64(len(j.tcp.flows)) })
	return s
}

// gone waits until the flow is.
func (j joined) gone(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); j.stats().Open > 0; {
		if time.Now().After(end) {
			t.Fatal("the flow is still there 5 s after its end")
		}
		time.Sleep(time.Millisecond)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return b
}

// both runs a case from the host to the wire and the other way round.
func both(t *testing.T, f func(t *testing.T, j joined, from, to *net.TCPConn)) {
	t.Run("from the host", func(t *testing.T) { j := newFlow(t); f(t, j, j.host, j.wire) })
	t.Run("from the wire", func(t *testing.T) { j := newFlow(t); f(t, j, j.wire, j.host) })
}

func TestFlowCarriesEverythingInOrder(t *testing.T) {
	both(t, func(t *testing.T, j joined, from, to *net.TCPConn) {
		data := random(64 << 20)
		go func() {
			_, _ = from.Write(data)
			_ = from.CloseWrite()
		}()
		h := sha256.New()
		n, err := io.Copy(h, to)
		if err != nil || n != int64(len(data)) || !bytes.Equal(h.Sum(nil), sum(data)) {
			t.Fatalf("%d of %d bytes, error %v, or not the same ones", n, len(data), err)
		}
	})
}

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

func TestFlowHalfClose(t *testing.T) {
	both(t, func(t *testing.T, j joined, from, to *net.TCPConn) {
		if err := from.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := to.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("read after the other's end: %d bytes, %v, want EOF", n, err)
		}
		if s := j.stats(); s.Open != 1 {
			t.Fatal("the flow ended although one way is open")
		}
		if _, err := to.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		to.Close()
		got, err := io.ReadAll(from)
		if string(got) != "answer" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		from.Close()
		j.gone(t)
		if s := j.stats(); s.Reset != 0 {
			t.Errorf("%d resets after an end in order", s.Reset)
		}
	})
}

func TestFlowResetArrivesAsReset(t *testing.T) {
	both(t, func(t *testing.T, j joined, from, to *net.TCPConn) {
		_ = from.SetLinger(0)
		from.Close()
		if n, err := to.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Fatalf("read: %d bytes, %v, want ECONNRESET", n, err)
		}
		j.gone(t)
	})
}

// Payload sent before a reset arrives before the reset, as from a program that answers and closes
// with unread data.
func TestFlowDeliversWhatCameBeforeAReset(t *testing.T) {
	both(t, func(t *testing.T, j joined, from, to *net.TCPConn) {
		data := random(1 << 20)
		if _, err := from.Write(data); err != nil {
			t.Fatal(err)
		}
		until(t, "all is under way", func() bool { s := j.stats(); return s.FromHost+s.ToHost > 0 })
		_ = from.SetLinger(0)
		from.Close()
		got := make([]byte, 0, len(data))
		buf := make([]byte, 64<<10)
		var err error
		for err == nil {
			var n int
			n, err = to.Read(buf)
			got = append(got, buf[:n]...)
		}
		if !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("the end is %v, want ECONNRESET", err)
		}
		// A reset discards what its sender had not sent yet, never the middle.
		if !bytes.Equal(got, data[:len(got)]) || len(got) == 0 {
			t.Errorf("%d bytes arrived, not the first ones of %d", len(got), len(data))
		}
	})
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 5 s: %s", what)
		}
	}
}

// A flow must notice a reset from a side that has already sent FIN, while the other side is silent.
func TestFlowNoticesAResetAfterTheEnd(t *testing.T) {
	both(t, func(t *testing.T, j joined, from, to *net.TCPConn) {
		_ = from.CloseWrite()
		if _, err := to.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("%v, want EOF", err)
		}
		_ = from.SetLinger(0)
		from.Close()
		j.gone(t)
		if _, err := to.Write([]byte("x")); err == nil {
			_, err = to.Write([]byte("x"))
			if err == nil {
				t.Error("two writes to a connection that was reset succeeded")
			}
		}
	})
}

// A reader that does not read blocks the writer. Payload in between is bounded.
func TestFlowBackPressure(t *testing.T) {
	both(t, func(t *testing.T, j joined, from, to *net.TCPConn) {
		_ = to.SetReadBuffer(64 << 10)
		_ = from.SetWriteDeadline(time.Now().Add(time.Second))
		sent, err := from.Write(make([]byte, 256<<20))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a writer without a reader: %d bytes, %v, want a time-out", sent, err)
		}
		held := 0
		j.tcp.loop.Do(func() { held = j.tcp.pipes.held })
		if held > pipeSize {
			t.Errorf("%d bytes in pipes, want %d at most", held, pipeSize)
		}
		_ = from.SetLinger(0)
		from.Close()
		to.Close()
		j.gone(t)
	})
}

// An idle connection holds no pipe.
func TestFlowAtRestNeedsNoPipe(t *testing.T) {
	j := newFlow(t)
	data := make([]byte, 100<<10) // more than the loop passes on itself
	if _, err := j.host.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(j.wire, data); err != nil {
		t.Fatal(err)
	}
	j.tcp.loop.Do(func() {
		for f := range j.tcp.flows {
			if f.way[host].pipe != nil || f.way[wire].pipe != nil {
				t.Error("a pipe with nothing in it")
			}
		}
		if n := len(j.tcp.pipes.spare); n == 0 || n > sparePipes {
			t.Errorf("%d spare pipes", n)
		}
	})
}

// Bytes pass one by one without waiting for more.
func TestFlowDoesNotWaitForMore(t *testing.T) {
	j := newFlow(t)
	one := []byte{1}
	began := time.Now()
	for range 200 {
		if _, err := j.host.Write(one); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(j.wire, one); err != nil {
			t.Fatal(err)
		}
		if _, err := j.wire.Write(one); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(j.host, one); err != nil {
			t.Fatal(err)
		}
	}
	// SPLICE_F_MORE or Nagle's algorithm would cost 40 ms and more each.
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("200 round trips took %v: something waits", took)
	}
}

// The death of this program resets connections. It must not look like an orderly end.
func TestFlowThatIsClosedResetsBothSides(t *testing.T) {
	j := newFlow(t)
	j.tcp.loop.Do(func() {
		for f := range j.tcp.flows {
			for _, fd := range f.fd { // as the kernel does when a program dies
				j.tcp.loop.Close(fd)
			}
			delete(j.tcp.flows, f)
		}
	})
	for name, c := range map[string]*net.TCPConn{"host": j.host, "wire": j.wire} {
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: %d bytes, %v, want ECONNRESET", name, n, err)
		}
	}
}

func TestPipesGiveLessWhenTheyAreFull(t *testing.T) {
	p := pipes{room: 16 << 20}
	if n := p.portion(); n != pipeSize {
		t.Errorf("empty: portions of %d, want %d", n, pipeSize)
	}
	p.held = p.room
	if n := p.portion(); n != leastPipe {
		t.Errorf("full: portions of %d, want %d", n, leastPipe)
	}
}

// BenchmarkFlow measures payload in one direction.
func BenchmarkFlow(b *testing.B) {
	host, wire := benchFlow(b)
	data := make([]byte, 1<<20)
	go func() { _, _ = io.Copy(io.Discard, wire) }()
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		_ = host.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := host.Write(data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFlowRequests measures requests and answers of a few bytes, one at a time.
func BenchmarkFlowRequests(b *testing.B) {
	host, wire := benchFlow(b)
	go func() { _, _ = io.Copy(wire, wire) }()
	data := make([]byte, 128)
	b.ReportAllocs()
	for b.Loop() {
		_ = host.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := host.Write(data); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(host, data); err != nil {
			b.Fatal(err)
		}
	}
}

func benchFlow(b *testing.B) (host, wire *net.TCPConn) {
	l, err := loop.New()
	if err != nil {
		b.Fatal(err)
	}
	t := &tcp{loop: l, flows: map[*flow]bool{}, pipes: pipes{room: 16 << 20}, count: TCPStats{Drops: map[string]uint64{}}}
	go l.Run()
	var tt testing.T
	host, x := connected(&tt)
	wire, y := connected(&tt)
	l.Do(func() { t.join(x, y, false) })
	b.Cleanup(func() {
		_, _ = host.Close(), wire.Close()
		l.Stop()
	})
	return host, wire
}

// TestFlowUrgent sends an urgent byte in the middle: splice(2) stops before it as at the end of
// file.
func TestFlowUrgent(t *testing.T) {
	for _, inLine := range []bool{false, true} {
		j := newFlow(t)
		raw, err := j.wire.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		want := "beforeafter"
		if inLine {
			want = "before!after"
			_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) })
		}
		if err == nil {
			_, err = j.host.Write([]byte("before"))
		}
		if err == nil {
			err = sendUrgent(j.host, '!')
		}
		if err == nil {
			_, err = j.host.Write([]byte("after"))
		}
		if err != nil {
			t.Fatal(err)
		}
		j.host.CloseWrite()
		if got, err := io.ReadAll(j.wire); string(got) != want || err != nil {
			t.Errorf("in line %t: got %q and %v, want %q", inLine, got, err, want)
		}
	}
}

func sendUrgent(c *net.TCPConn, b byte) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.Sendto(int(fd), []byte{b}, unix.MSG_OOB, nil) })
	return errors.Join(err, failed)
}

// TestFlowOfABrokenConnection: the remote has reset an accepted connection, and the error has been
// read from the socket before the flow starts. Payload that the remote sent before is delivered,
// and the connection ends with a reset.
func TestFlowOfABrokenConnection(t *testing.T) {
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	all := &tcp{loop: l, flows: map[*flow]bool{}, pipes: pipes{room: 16 << 20}, count: TCPStats{Drops: map[string]uint64{}}}
	host, a := connected(t)
	wire, b := connected(t)
	defer host.Close()
	_, _ = wire.Write([]byte("last words"))
	_ = wire.SetLinger(0)
	wire.Close()
	for end := time.Now().Add(5 * time.Second); !errors.Is(pendingError(b), unix.ECONNRESET); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no reset after 5 s")
		}
	}
	go l.Run()
	l.Do(func() { all.join(a, b, true) })
	got, err := io.ReadAll(host)
	if string(got) != "last words" || !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %q and %v", got, err)
	}
	l.Do(all.pipes.close)
	l.Stop()
}

// TestClientsLeaveRoom: clients of published services cannot fill the table; the host can still
// connect.
func TestClientsLeaveRoom(t *testing.T) {
	for _, c := range []struct {
		name                    string
		flows, inbound, waiting int
		host, wire              bool // is full
	}{
		{"empty", 0, 0, 0, false, false},
		{"clients below their share", 11, 11, 0, false, false},
		{"clients have their share", 12, 12, 0, false, true},
		{"those that wait count", 8, 8, 4, false, true},
		{"many wait", 0, 0, maxDialing, false, true},
		{"the host has it all", 16, 0, 0, true, true},
	} {
		all := &tcp{maxFlows: 16, inbound: c.inbound, flows: map[*flow]bool{}, dialing: map[*dialing]bool{}, count: TCPStats{Drops: map[string]uint64{}}}
		for range c.flows {
			all.flows[new(flow)] = true
		}
		for range c.waiting {
			all.dialing[new(dialing)] = true
		}
		if host, wire := all.full(), all.fullForWire(); host != c.host || wire != c.wire {
			t.Errorf("%s: full for the host %t, for the wire %t; want %t, %t", c.name, host, wire, c.host, c.wire)
		}
	}
}

// TestFlowDoesNotSpin: a level-triggered side reports a persistent condition again and again, so a
// flow must not stay level-triggered under any of these conditions.
func TestFlowDoesNotSpin(t *testing.T) {
	both(t, func(t *testing.T, j joined, from, to *net.TCPConn) {
		word := make([]byte, 5)
		for range 2 * calmAfter { // calm at the end, if not from the beginning
			for _, c := range [][2]*net.TCPConn{{from, to}, {to, from}} {
				if _, err := c[0].Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(c[1], word); err != nil {
					t.Fatal(err)
				}
			}
		}
		idle(t, "at rest")
		if err := sendUrgent(from, '!'); err != nil {
			t.Fatal(err)
		}
		idle(t, "urgent data")
		_ = from.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		for {
			if _, err := from.Write(make([]byte, 1<<20)); err != nil {
				break
			}
		}
		idle(t, "a reader that sleeps")
		if _, err := to.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		idle(t, "a reader that sleeps, and writes")
		if err := to.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		idle(t, "a reader that sleeps, and has said that it writes no more")
	})
}

func TestFlowHalfClosedDoesNotSpin(t *testing.T) {
	both(t, func(t *testing.T, j joined, from, to *net.TCPConn) {
		if err := from.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := to.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("read %v, want the end", err)
		}
		idle(t, "one half closed")
	})
}

// idle fails the test if the flow uses CPU time while nothing happens.
func idle(t *testing.T, what string) {
	t.Helper()
	time.Sleep(50 * time.Millisecond) // what is under way comes to rest
	before := used(t)
	time.Sleep(300 * time.Millisecond)
	if d := used(t) - before; d > 100*time.Millisecond {
		t.Errorf("%s: %v of CPU time in 300 ms", what, d)
	}
}

// used is the CPU time of this process.
func used(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
