// Package ownnet gives tests a network of their own.
package ownnet

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread in a network namespace that ends with it. Without
// root, or where the kernel has no such namespaces, the test is skipped.
func Run(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Skipf("no network namespace: %v", err)
	}
}
