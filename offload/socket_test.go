package offload

import (
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNarrow: a grown receive buffer shrinks, but keeps room for the data received and in flight.
// It can grow again.
func TestNarrow(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: l.Addr().(*net.TCPAddr).Port}); err != nil {
		t.Fatal(err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8*linkBuffer)
	if errors.Is(err, unix.EPERM) {
		t.Skip("only root may make a buffer this large at once; test/run runs this again as root")
	} else if err != nil {
		t.Fatal(err)
	}
	const wide = 6 * linkBuffer
	narrow(fd, wide)
	m, err := memory(fd)
	if err != nil || m.room != wide {
		t.Errorf("room for %d bytes (%v), not %d", m.room, err, wide)
	}
	if lock, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK); lock != sendLocked {
		t.Errorf("locks %d, not %d", lock, sendLocked)
	}
	if n := largestReceive(); n < 1<<16 {
		t.Errorf("the kernel's largest receive buffer is %d bytes", n)
	}
}
