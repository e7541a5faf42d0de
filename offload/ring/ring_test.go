package ring

import (
	"bytes"
	"errors"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newRing makes a ring of this thread. A test is skipped where the kernel has no io_uring, forbids
// it, or is too old.
func newRing(t *testing.T) *Ring {
	t.Helper()
	r, err := New()
	for _, e := range []error{unix.ENOSYS, unix.EPERM, unix.EINVAL, unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			t.Skip(err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	t.Cleanup(func() {
		r.Close()
		runtime.UnlockOSThread()
	})
	if err := r.Begin(); err != nil {
		t.Fatal(err)
	}
	return r
}

// sockets makes two connected non-blocking sockets.
func sockets(t *testing.T) (a, b int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func epoll(t *testing.T, fds ...int) int {
	t.Helper()
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(ep) })
	for _, fd := range fds {
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			t.Fatal(err)
		}
	}
	return ep
}

func (r *Ring) submit(t *testing.T) (all []Result) {
	t.Helper()
	if err := r.Submit(); err != nil {
		t.Fatal(err)
	}
	for x := r.Next(); x.Kind != None; x = r.Next() {
		all = append(all, x)
	}
	return all
}

func TestRingReceivesAndSends(t *testing.T) {
	r := newRing(t)
	a, b := sockets(t)
	c, d := sockets(t)
	for round := range 3 * entries { // around the queue
		message := []byte{byte(round), byte(round >> 8), 'x'}
		if _, err := unix.Write(a, message); err != nil {
			t.Fatal(err)
		}
		r.Receive(b, 1)
		r.Receive(d, 2) // has nothing
		got := r.submit(t)
		if len(got) != 2 || got[0] != (Result{Kind: Received, Buffer: 1, N: 3}) || got[1] != (Result{Kind: Received, Buffer: 2, Err: unix.EAGAIN}) {
			t.Fatalf("results %+v", got)
		}
		r.Send(c, 1, 3)
		if got := r.submit(t); len(got) != 0 {
			t.Fatalf("results %+v of a send that succeeds", got)
		}
		in := make([]byte, 9)
		if n, err := unix.Read(d, in); err != nil || !bytes.Equal(in[:n], message) {
			t.Fatalf("%q, %v, want %q", in[:n], err, message)
		}
	}
}

// A full batch is one call, and every message goes to its own buffer.
func TestRingFullBatch(t *testing.T) {
	r := newRing(t)
	a, b := sockets(t)
	for i := range Batch {
		r.Buffer(i)[0] = byte(i)
		r.Send(a, i, 1)
	}
	if got := r.submit(t); len(got) != 0 {
		t.Fatalf("results %+v", got)
	}
	in := make([]byte, Batch+1)
	n, err := unix.Read(b, in)
	if err != nil || n != Batch {
		t.Fatal(n, err)
	}
	for i, x := range in[:n] {
		if x != byte(i) {
			t.Fatalf("byte %d is %d", i, x)
		}
	}
}

func TestRingReportsWhatWasNotSent(t *testing.T) {
	r := newRing(t)
	a, b := sockets(t)
	_ = unix.SetsockoptInt(a, unix.SOL_SOCKET, unix.SO_SNDBUF, 1)
	var got []Result
	for len(got) == 0 {
		r.Send(a, 7, BufferSize)
		got = r.submit(t)
	}
	if got[0].Kind != Sent || got[0].Buffer != 7 || got[0].N == 0 && got[0].Err != unix.EAGAIN || got[0].N >= BufferSize {
		t.Errorf("%+v, want fewer bytes than %d", got[0], BufferSize)
	}
	_ = unix.Close(b)
	r.Send(a, 3, 1)
	if got := r.submit(t); len(got) != 1 || got[0] != (Result{Kind: Sent, Buffer: 3, Err: unix.EPIPE}) {
		t.Errorf("%+v, want EPIPE", got)
	}
	_ = unix.Dup3(a, b, unix.O_CLOEXEC) // for Cleanup
}

func TestRingClosedDescriptor(t *testing.T) {
	r := newRing(t)
	r.Receive(1<<20, 0)
	r.Receive(-1, 1)
	got := r.submit(t)
	if len(got) != 2 || got[0].Err != unix.EBADF || got[1].Err != unix.EBADF {
		t.Errorf("%+v, want EBADF", got)
	}
}

func TestRingWaitsForEvents(t *testing.T) {
	r := newRing(t)
	a, b := sockets(t)
	ep := epoll(t, b)
	if err := r.Wait(ep, false); err != nil {
		t.Fatal(err)
	}
	if x := r.Next(); x.Kind != None {
		t.Fatalf("%+v, want nothing", x)
	}
	for _, pause := range []time.Duration{0, 100 * time.Microsecond, 20 * time.Millisecond} { // around the millisecond
		go func() { time.Sleep(pause); _, _ = unix.Write(a, []byte("x")) }()
		if err := r.Wait(ep, true); err != nil {
			t.Fatal(err)
		}
		x := r.Next()
		if x.Kind != Events || x.N != 1 {
			t.Fatalf("%+v, want an event", x)
		}
		if ev := r.Events(x.N)[0]; int(ev.Fd) != b || ev.Events != unix.EPOLLIN {
			t.Errorf("event %+v, want EPOLLIN of %d", ev, b)
		}
		_, _ = unix.Read(b, make([]byte, 9))
	}
}

// A send that fails ends a wait, and the wait for events goes on.
func TestRingFailureEndsAWait(t *testing.T) {
	r := newRing(t)
	a, b := sockets(t)
	c, d := sockets(t)
	ep := epoll(t, d)
	_ = unix.Shutdown(b, unix.SHUT_RD)
	r.Send(a, 0, 1)
	if err := r.Wait(ep, true); err != nil {
		t.Fatal(err)
	}
	if x := r.Next(); x != (Result{Kind: Sent, Err: unix.EPIPE}) {
		t.Fatalf("%+v, want EPIPE", x)
	}
	_, _ = unix.Write(c, []byte("x"))
	if err := r.Wait(ep, true); err != nil {
		t.Fatal(err)
	}
	if x := r.Next(); x.Kind != Events || x.N != 1 {
		t.Fatalf("%+v, want an event", x)
	}
}

// A connection whose socket is closed ends, whatever the ring did with it.
func TestRingHoldsNoDescriptor(t *testing.T) {
	r := newRing(t)
	a, b := sockets(t)
	ep := epoll(t, a)
	r.Receive(a, 0)
	r.submit(t)
	if err := r.Wait(ep, false); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(a)
	if n, err := unix.Read(b, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("%d, %v after the other end was closed, want its end", n, err)
	}
	_ = unix.Dup3(b, a, unix.O_CLOEXEC) // for Cleanup
}

// tcpPair makes two connected TCP sockets.
func tcpPair(t *testing.T) (a, b int) {
	t.Helper()
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(l, 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(l)
	at, err := unix.Getsockname(l)
	if err != nil {
		t.Fatal(err)
	}
	if a, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
		err = unix.Connect(a, at)
	}
	if err == nil {
		b, _, err = unix.Accept(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(a), unix.Close(b) })
	return a, b
}

// Calls without a result are made in order, more of them than the queue has places.
func TestRingCallsWithoutResult(t *testing.T) {
	r := newRing(t)
	a, b := tcpPair(t)
	for i := range 2*entries + 2 {
		r.SetOption(a, unix.SOL_TCP, unix.TCP_NODELAY, []byte{byte(i%2 + 1), 0, 0, 0})
		r.Tell(a, []byte{byte(i)})
	}
	r.SetOption(a, unix.SOL_SOCKET, unix.SO_LINGER, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	if got := r.submit(t); len(got) != 0 {
		t.Fatalf("results %+v", got)
	}
	if on, err := unix.GetsockoptInt(a, unix.SOL_TCP, unix.TCP_NODELAY); on != 1 || err != nil {
		t.Errorf("TCP_NODELAY is %d, %v", on, err)
	}
	in := make([]byte, 2*entries+2)
	for got := 0; got < len(in); {
		n, err := unix.Read(b, in[got:])
		if n <= 0 {
			t.Fatalf("%d bytes, then %v, want %d", got, err, len(in))
		}
		got += n
	}
	for i, x := range in {
		if x != byte(i) {
			t.Fatalf("byte %d is %d: out of order", i, x)
		}
	}
	again, err := unix.Dup(a)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(again)
	r.CloseSocket(a)
	r.submit(t)
	if n, err := unix.Read(b, in); err != unix.ECONNRESET {
		t.Errorf("%d, %v after a close with SO_LINGER of 0 s, want ECONNRESET", n, err)
	}
	_ = unix.Dup3(b, a, unix.O_CLOEXEC) // for Cleanup
}

func TestRingModifiesEvents(t *testing.T) {
	r := newRing(t)
	a, b := sockets(t)
	ep := epoll(t, b)
	_, _ = unix.Write(a, []byte("x"))
	r.Modify(ep, b, unix.EpollEvent{Events: unix.EPOLLOUT, Fd: 77})
	if err := r.Wait(ep, true); err != nil {
		t.Fatal(err)
	}
	if x := r.Next(); x.Kind != Events || x.N != 1 || r.Events(1)[0].Fd != 77 || r.Events(1)[0].Events != unix.EPOLLOUT {
		t.Errorf("%+v, %+v, want EPOLLOUT of 77", x, r.Events(1))
	}
}
