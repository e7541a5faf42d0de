package offload

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// shortLived is a sink whose socket is closed by the first refusal. Its descriptor number is then
// reused by another socket.
type shortLived struct {
	t              *testing.T
	fd, another    int
	closed         bool
	count, refusal uint64
}

func (s *shortLived) gone() bool { return s.closed }

func (s *shortLived) refused(r refusal) bool {
	s.refusal++
	s.count += r.count
	if !s.closed {
		s.closed = true
		if err := unix.Dup2(s.another, s.fd); err != nil {
			s.t.Error(err)
		}
	}
	return false
}

// TestOutboxEndsWithItsSocket: datagrams after a refusal that has closed the socket are counted,
// and not sent through the socket that reuses its descriptor number.
func TestOutboxEndsWithItsSocket(t *testing.T) {
	open := func() (fd int, at peer) {
		t.Helper()
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, sockaddr(netip.MustParseAddrPort("127.0.0.1:0"))); err != nil {
			t.Fatal(err)
		}
		sa, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		return fd, peerOf(addrPort(sa))
	}
	target, to := open()
	nowhere := peerOf(netip.MustParseAddrPort("127.0.0.1:0")) // port 0: EINVAL at once
	for name, segment := range map[string]int{"datagrams": 0, "trains": 100} {
		fd, _ := open()
		another, _ := open()
		s := &shortLived{t: t, fd: fd, another: another}
		b := newOutbox()
		d := &datagram{data: make([]byte, 300), segment: segment}
		b.add(d, &nowhere, nil, false)
		b.add(d, &to, nil, false)
		b.add(d, &to, nil, false)
		b.flush(fd, s)
		want := 3 * d.count()
		if s.count != want {
			t.Errorf("%s: %d refused in %d refusals, want %d", name, s.count, s.refusal, want)
		}
		if n, _, err := unix.Recvfrom(target, make([]byte, 999), 0); err != unix.EAGAIN {
			t.Errorf("%s: %d bytes were sent by another's socket (%v)", name, n, err)
		}
	}
}
