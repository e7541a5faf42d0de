package vhostuser_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/vhostuser"
)

// made is the first of the descriptors that a call makes; the others are closed with the test.
func made(t *testing.T, err error, fds ...int) *os.File {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds[1:] {
		t.Cleanup(func() { unix.Close(fd) })
	}
	f := os.NewFile(uintptr(fds[0]), "notifier")
	t.Cleanup(func() { f.Close() })
	return f
}

// A kick or error descriptor is an eventfd. A call descriptor may be a pipe to write to or a unix socket.
func TestNotifierKinds(t *testing.T) {
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	kinds := map[string]*os.File{"eventfd": made(t, err, event)}
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	kinds["timerfd"] = made(t, err, timer)
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	kinds["epoll"] = made(t, err, epoll)
	var pipe [2]int
	err = unix.Pipe2(pipe[:], unix.O_CLOEXEC)
	kinds["pipe"], kinds["pipe to read from"] = made(t, err, pipe[1]), made(t, err, pipe[0])
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	kinds["unix socket"] = made(t, err, pair[:]...)
	udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	kinds["UDP socket"] = made(t, err, udp)
	netlink, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	kinds["netlink socket"] = made(t, err, netlink)
	kinds["file"], err = os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kinds["file"].Close() })
	for name, f := range kinds {
		for _, r := range []vhostuser.Request{vhostuser.SetVringKick, vhostuser.SetVringCall, vhostuser.SetVringErr} {
			k := newTalk(t, &device{})
			k.acks()
			k.ring(0)
			good := name == "eventfd" || r == vhostuser.SetVringCall && (name == "pipe" || name == "unix socket" || name == "pipe to read from")
			if err := k.Do(r, fakecard.U64(0), f); (err == nil) != good {
				t.Errorf("request %d with a descriptor of kind %s: %v", r, name, err)
			}
			k.end()
		}
	}
}

// O_NONBLOCK of a pipe is the device's own: a front end cannot take it away afterwards.
func TestPipeStaysNonblocking(t *testing.T) {
	var pipe [2]int
	err := unix.Pipe2(pipe[:], unix.O_CLOEXEC)
	f := made(t, err, pipe[1], pipe[0])
	dev := &holder{device: &device{}}
	k := newTalkWith(t, dev, dev.device)
	k.acks()
	k.ring(0)
	k.ok(k.Do(vhostuser.SetVringCall, fakecard.U64(0), f))
	k.ok(k.Do(vhostuser.SetVringErr, fakecard.U64(0), k.event))
	k.ok(k.Do(vhostuser.SetVringKick, fakecard.U64(0), k.event))
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, unix.O_WRONLY); err != nil {
		t.Fatal(err)
	}
	if flags, err := unix.FcntlInt(dev.told.Call.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v; want O_NONBLOCK", flags, err)
	}
	k.want("start 0 size 256 base 7 on true call true") // for the race detector: what was read above is closed after this
	k.end()
}

// A kick or a call wakes the pump or the card, and not this process: Go's poller does not watch what a
// front end passed, though it does not block.
func TestNotifiersAreNotPolled(t *testing.T) {
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	f := made(t, err, event)
	dev := &holder{device: &device{}}
	k := newTalkWith(t, dev, dev.device)
	k.acks()
	k.ring(0)
	for _, r := range []vhostuser.Request{vhostuser.SetVringCall, vhostuser.SetVringErr, vhostuser.SetVringKick} {
		k.ok(k.Do(r, fakecard.U64(0), f))
	}
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil || len(infos) == 0 {
		t.Fatal(infos, err)
	}
	for _, info := range infos {
		b, _ := os.ReadFile(info)
		for what, told := range map[string]*os.File{"kick": dev.told.Kick, "call": dev.told.Call, "err": dev.told.Err} {
			for line := range strings.Lines(string(b)) {
				if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "tfd:" && fields[1] == fmt.Sprint(told.Fd()) {
					t.Errorf("the %s descriptor is watched by %s", what, info)
				}
			}
		}
	}
	k.want("start 0 size 256 base 7 on true call true")
	k.end()
}
