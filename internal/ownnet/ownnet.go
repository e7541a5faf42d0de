// Package ownnet gives tests a network of their own.
package ownnet

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread in a network namespace that ends with it. Only root may make one: for
// other users the test is skipped, and test/run runs it again as root.
func Run(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; errors.Is(err, unix.EPERM) {
		t.Skipf("no network namespace: %v", err)
	} else if err != nil {
		t.Fatalf("no network namespace: %v", err)
	}
}
