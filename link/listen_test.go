package link

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// deadSocket makes the socket that a killed back end leaves behind.
func deadSocket(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

// Only a stale socket is replaced.
func TestListen(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
		says string // the error; empty for none
	}{
		{"nothing there", func(*testing.T, string) {}, ""},
		{"dead", deadSocket, ""},
		{"answered", func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, "in use: another back end answers on it"},
		{"a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "is not a socket"},
		{"not a stream", func(t *testing.T, path string) {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Close(fd) })
		}, "possibly in use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			c.make(t, path)
			before, _ := os.Lstat(path)
			l, err := listen(path)
			if err == nil {
				defer l.Close()
			}
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, want %q", err, c.says)
			}
			after, _ := os.Lstat(path)
			if c.says != "" && !os.SameFile(before, after) {
				t.Error("what was there is gone")
			}
			if all, _ := os.ReadDir(filepath.Dir(path)); len(all) != 1 {
				t.Errorf("left behind: %v", all)
			}
		})
	}
}

// Many processes find a dead socket at once. None replaces the socket of one that
// has taken it already, and a connection reaches the process that has it.
func TestListenAtOnce(t *testing.T) {
	for range 50 {
		path := filepath.Join(t.TempDir(), "s")
		deadSocket(t, path)
		var mu sync.Mutex
		var got []*net.UnixListener
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				if l, err := listen(path); err == nil {
					mu.Lock()
					got = append(got, l)
					mu.Unlock()
				}
			})
		}
		all.Wait()
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
		}
		for _, l := range got {
			l.SetUnlinkOnClose(false)
			l.Close()
		}
		if err != nil || len(got) != 1 {
			t.Fatalf("%d listen, and dialling says %v; want one", len(got), err)
		}
	}
}
