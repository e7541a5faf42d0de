package hostnet

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNetns runs f with the calling thread in a named network namespace, and
// brings the thread back. A thread that cannot be brought back is never used
// again, and never ended either: children would take its end for ours.
func inNetns(name string, f func() error) error {
	errc := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := switchNetns(filepath.Join(netnsDir, name))
		if err != nil {
			errc <- err
			runtime.UnlockOSThread()
			return
		}
		err = f()
		if !back() {
			errc <- fmt.Errorf("network namespace %s: cannot be left", name)
			select {}
		}
		runtime.UnlockOSThread()
		errc <- err
	}()
	return <-errc
}

func switchNetns(path string) (back func() bool, err error) {
	own, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("own network namespace: %w", err)
	}
	other, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(own)
		return nil, fmt.Errorf("network namespace %s: %w", path, err)
	}
	defer unix.Close(other)
	if err := unix.Setns(other, unix.CLONE_NEWNET); err != nil {
		unix.Close(own)
		return nil, fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return func() bool {
		defer unix.Close(own)
		return unix.Setns(own, unix.CLONE_NEWNET) == nil
	}, nil
}

func netnsExists(name string) bool {
	_, err := os.Stat(filepath.Join(netnsDir, name))
	return err == nil
}
