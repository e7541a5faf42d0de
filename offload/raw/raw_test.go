package raw

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConnection makes a connection over loopback with the calls of this package.
func TestConnection(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		addr := netip.MustParseAddrPort(at)
		family := unix.AF_INET
		if addr.Addr().Is6() {
			family = unix.AF_INET6
		}
		l := socket(t, family)
		if err := errors.Join(Bind(l, addr), unix.Listen(l, 1)); err != nil {
			t.Skipf("%s: %v", at, err)
		}
		bound, err := Getsockname(l)
		if err != nil || bound.Addr() != addr.Addr() || bound.Port() == 0 {
			t.Fatalf("bound to %v, %v", bound, err)
		}
		c := socket(t, family)
		if err := Connect(c, bound); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			t.Fatal(err)
		}
		var fd int
		var peer netip.AddrPort
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			if fd, peer, err = Accept(l); err == nil {
				break
			}
			if time.Now().After(end) || !errors.Is(err, unix.EAGAIN) {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { _ = Close(fd) })
		if local, err := Getsockname(c); err != nil || peer != local {
			t.Errorf("the peer is %v, want %v, %v", peer, local, err)
		}
		if err := errors.Join(Setsockopt(c, unix.SOL_TCP, unix.TCP_NODELAY, 1), SetLinger(c, true)); err != nil {
			t.Error(err)
		}
		var on int32
		if err := Getsockopt(c, unix.SOL_TCP, unix.TCP_NODELAY, &on); err != nil || on == 0 {
			t.Errorf("TCP_NODELAY is %d, %v", on, err)
		}
		if err := SendTo(c, []byte("hello"), 0, nil); err != nil {
			t.Fatal(err)
		}
		r, w, err := Pipe(1 << 16)
		if err != nil {
			t.Fatal(err)
		}
		defer Close(r)
		defer Close(w)
		if n, err := Splice(fd, w, 100); n != 5 || err != nil {
			t.Errorf("splice %d, %v", n, err)
		}
		b := make([]byte, 10)
		if n, err := Read(r, b); err != nil || string(b[:n]) != "hello" {
			t.Errorf("read %q, %v", b[:n], err)
		}
		if n, err := Splice(fd, w, 100); n != -1 || !errors.Is(err, unix.EAGAIN) {
			t.Errorf("splice of nothing: %d, %v", n, err)
		}
		if err := Shutdown(c, unix.SHUT_WR); err != nil {
			t.Error(err)
		}
		if n, err := Splice(fd, w, 100); n != 0 || err != nil {
			t.Errorf("splice at the end: %d, %v", n, err)
		}
	}
}

func socket(t *testing.T, family int) int {
	t.Helper()
	fd, err := Socket(family, unix.SOCK_STREAM)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		t.Skip("the kernel has no IPv6")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Close(fd) })
	return fd
}

// TestNothingAllocated: errors included.
func TestNothingAllocated(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() {
		_, _ = Splice(-1, -1, 1)
		_ = Setsockopt(-1, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		_, _, _ = Accept(-1)
		_, _ = EpollWait(-1, nil, false)
	}); n != 0 {
		t.Errorf("%.0f allocations", n)
	}
}
