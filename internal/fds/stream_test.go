package fds

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Descriptors arrive with the bytes that they were sent with, even through a buffer that reads
// ahead. Descriptors that are not taken are closed.
func TestStream(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "passed")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	from, at := conn(t, Socket(pair[0])), &Stream{UnixConn: conn(t, Socket(pair[1]))}
	Close(pair[:])
	before := open(t)
	if err := WriteBeside(from, []byte("line 1\nline 2\n"), f, f); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(at).ReadString('\n'); err != nil || line != "line 1\n" {
		t.Fatalf("%q, %v", line, err)
	}
	got := at.Take()
	if len(got) != 2 || len(at.Take()) != 0 {
		t.Fatalf("%d descriptors, want 2, once", len(got))
	}
	var there, here unix.Stat_t
	err = errors.Join(unix.Fstat(int(got[0].Fd()), &there), unix.Fstat(int(f.Fd()), &here))
	if err != nil || there.Ino != here.Ino {
		t.Errorf("another file arrived: %v", err)
	}
	if flags, err := unix.FcntlInt(got[0].Fd(), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("close-on-exec is not set: %v", err)
	}
	CloseAll(got)
	if err := WriteBeside(from, []byte("x"), f); err != nil {
		t.Fatal(err)
	}
	from.Close()
	if b, err := io.ReadAll(at); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	at.Close()
	if now := open(t); now != before-2 {
		t.Errorf("%d descriptors are open, want %d", now, before-2)
	}
}

var _ net.Conn = (*Stream)(nil)
