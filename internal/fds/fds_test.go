package fds

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pair is two ends of a socket; both are closed with the test.
func pair(t *testing.T) (a, b Socket) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Close(fds[:]) })
	return Socket(fds[0]), Socket(fds[1])
}

func open(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// What is sent arrives, with its files, over a descriptor and a connection; then
// comes the end.
func TestPacket(t *testing.T) {
	for name, receiver := range map[string]func(Socket) Receiver{
		"descriptor": func(s Socket) Receiver { return s },
		"connection": func(s Socket) Receiver { return conn(t, s) },
	} {
		t.Run(name, func(t *testing.T) {
			from, at := pair(t)
			to := receiver(at)
			f, err := os.CreateTemp(t.TempDir(), "passed")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := from.Send(map[string]int{"a": 7}, f, f); err != nil {
				t.Fatal(err)
			}
			var v struct{ A int }
			got, err := Receive(to, &v, 100, 2)
			if err != nil || v.A != 7 || len(got) != 2 {
				t.Fatalf("%+v with %d descriptors, %v", v, len(got), err)
			}
			defer Close(got)
			for _, fd := range got {
				var there, here unix.Stat_t
				if err := errors.Join(unix.Fstat(fd, &there), unix.Fstat(int(f.Fd()), &here)); err != nil || there.Ino != here.Ino {
					t.Errorf("another file arrived: %v", err)
				}
				if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("close-on-exec is not set: %v", err)
				}
			}
			unix.Shutdown(int(from), unix.SHUT_RDWR)
			if _, err := Receive(to, &v, 100, 2); !errors.Is(err, io.EOF) {
				t.Errorf("after the end: %v, want io.EOF", err)
			}
		})
	}
}

// conn is another descriptor of a socket, as a connection.
func conn(t *testing.T, s Socket) *net.UnixConn {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(s), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.UnixConn)
}

// What cannot be read leaves no descriptor open, and the next packet is read.
func TestBadPacket(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "passed")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for name, v := range map[string]struct {
		sent  any
		files []*os.File
	}{
		"no such type":         {"text", []*os.File{f}},
		"too long":             {map[string]string{"A": strings.Repeat("x", 200)}, []*os.File{f, f}},
		"too many descriptors": {map[string]int{"A": 1}, []*os.File{f, f, f, f, f, f}},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := pair(t)
			before := open(t)
			if err := from.Send(v.sent, v.files...); err != nil {
				t.Fatal(err)
			}
			var got struct{ A int }
			if fds, err := Receive(to, &got, 100, 2); !errors.Is(err, ErrPacket) || fds != nil {
				t.Errorf("%v, %v; want ErrPacket", fds, err)
			}
			if now := open(t); now != before {
				t.Errorf("%d descriptors, before %d", now, before)
			}
			if err := from.Send(map[string]int{"A": 3}); err != nil {
				t.Fatal(err)
			}
			if _, err := Receive(to, &got, 100, 2); err != nil || got.A != 3 {
				t.Errorf("the next: %+v, %v", got, err)
			}
		})
	}
}

// Both ways to mark descriptors do, and let those below alone.
func TestCloseOnExecFrom(t *testing.T) {
	for name, mark := range map[string]func(int) error{"close_range": CloseOnExecFrom, "/proc": markListed} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			low, high := min(a, b), max(a, b)
			for _, s := range []Socket{low, high} {
				if _, err := unix.FcntlInt(uintptr(s), unix.F_SETFD, 0); err != nil {
					t.Fatal(err)
				}
			}
			if err := mark(int(high)); err != nil {
				t.Fatal(err)
			}
			for s, want := range map[Socket]int{low: 0, high: unix.FD_CLOEXEC} {
				if flags, err := unix.FcntlInt(uintptr(s), unix.F_GETFD, 0); err != nil || flags != want {
					t.Errorf("descriptor %d from %d on: flags %d, want %d, %v", s, high, flags, want, err)
				}
			}
		})
	}
}

// A packet without bytes is an end, and what is beside it does not stay open.
func TestDescriptorsBesideNothing(t *testing.T) {
	for name, receiver := range map[string]func(Socket) Receiver{
		"descriptor": func(s Socket) Receiver { return s },
		"connection": func(s Socket) Receiver { return conn(t, s) },
	} {
		t.Run(name, func(t *testing.T) {
			from, at := pair(t)
			to := receiver(at)
			before := open(t)
			rights := unix.UnixRights(0, 0) // not unix.Sendmsg, which adds a byte
			h := unix.Msghdr{Control: &rights[0]}
			h.SetControllen(len(rights))
			if _, _, err := unix.Syscall(unix.SYS_SENDMSG, uintptr(from), uintptr(unsafe.Pointer(&h)), 0); err != 0 {
				t.Fatal(err)
			}
			var v any
			if _, err := Receive(to, &v, 100, 2); !errors.Is(err, io.EOF) {
				t.Errorf("%v, want io.EOF", err)
			}
			if after := open(t); after != before {
				t.Errorf("%d descriptors are open, %d were", after, before)
			}
		})
	}
}
