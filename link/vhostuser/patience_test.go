package vhostuser

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mute is a device that is never called.
type mute struct{ Device }

func (mute) Shape() Shape     { return NetShape(1) }
func (mute) Features() uint64 { return Version1 }
func (mute) Reset()           {}

func socketpair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var c [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		if c[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { c[i].Close() })
	}
	return c[0].(*net.UnixConn), c[1].(*net.UnixConn)
}

// A front end that stalls within a message, or does not fetch its answers, is
// disconnected after a while. A silent one is not.
func TestPatience(t *testing.T) {
	get := u32s(uint32(GetFeatures), flagVersion, 0)
	for name, c := range map[string]struct {
		write func(*net.UnixConn)
		stays bool
	}{
		"says nothing": {func(*net.UnixConn) {}, true},
		"says something, then nothing": {func(c *net.UnixConn) {
			c.Write(get)
			c.Read(make([]byte, 64))
		}, true},
		"half a header":      {func(c *net.UnixConn) { c.Write(get[:5]) }, false},
		"header, no payload": {func(c *net.UnixConn) { c.Write(append(u32s(uint32(SetFeatures), flagVersion, 8), 1)) }, false},
		"reads no answers": {func(c *net.UnixConn) {
			c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			for {
				if _, err := c.Write(get); err != nil {
					return
				}
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			front, back := socketpair(t)
			ended := make(chan error, 1)
			go func() { ended <- serve(back, mute{}, 50*time.Millisecond) }()
			c.write(front)
			select {
			case err := <-ended:
				if c.stays || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("ended with %v", err)
				}
			case <-time.After(300 * time.Millisecond):
				if !c.stays {
					t.Error("still waits")
				}
				front.Close()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
		})
	}
}
