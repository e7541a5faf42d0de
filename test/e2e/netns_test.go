package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ipLimit is far more than ip(8) ever takes.
const ipLimit = 10 * time.Second

func ip(t testing.TB, args ...string) string {
	t.Helper()
	out, err := tryIP(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryIP(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), ipLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", args...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, complaint.String())
	}
	return string(out), nil
}

// addNetns makes a network namespace that goes away with the test.
func addNetns(t *testing.T, name string) {
	t.Helper()
	ip(t, "netns", "add", name)
	t.Cleanup(func() {
		if _, err := tryIP("netns", "del", name); err != nil {
			t.Error(err)
		}
	})
	ip(t, "-n", name, "link", "set", "lo", "up")
}

// inNetns runs f on a thread in a namespace, given by name or by path. A thread that cannot return
// ends with its goroutine.
func inNetns(name string, f func() error) error {
	path := name
	if !filepath.IsAbs(name) {
		path = filepath.Join("/run/netns", name)
	}
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := enterNetns(path)
		if err != nil {
			failed <- err
			return
		}
		defer unix.Close(own)
		err = f()
		if unix.Setns(own, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		failed <- err
	}()
	return <-failed
}

func enterNetns(path string) (own int, err error) {
	own, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	to, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Setns(to, unix.CLONE_NEWNET)
		unix.Close(to)
	}
	if err != nil {
		unix.Close(own)
		return -1, fmt.Errorf("network namespace %s: %w", path, err)
	}
	return own, nil
}

// dialIn connects from inside a namespace. The address must be a literal one:
// then the socket is made by the thread that asks for it.
func dialIn(name, network, address string, limit time.Duration) (c net.Conn, err error) {
	err = inNetns(name, func() (err error) {
		c, err = net.DialTimeout(network, address, limit)
		return err
	})
	return c, err
}
