package bench

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nsThread is a thread in a network namespace of its own. Its sockets are in that namespace, and
// its children die with it. The namespace has no name: it goes with the thread and the sockets.
type nsThread struct {
	work chan func()
	done chan struct{}
	file *os.File // the namespace, for others to enter
}

func newNSThread() (*nsThread, error) {
	t := &nsThread{work: make(chan func()), done: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(t.done)
		runtime.LockOSThread() // and never unlocked: the thread ends with this function
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			t.file, err = os.Open("/proc/thread-self/ns/net")
		}
		started <- err
		if err != nil {
			return
		}
		for f := range t.work {
			f()
		}
		t.file.Close()
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return t, t.do(loopbackUp)
}

// do runs f on the thread. A nil thread is the caller's own.
func (t *nsThread) do(f func() error) error {
	if t == nil {
		return f()
	}
	errc := make(chan error, 1)
	select {
	case t.work <- func() { errc <- f() }:
		return <-errc
	case <-t.done:
		return errors.New("the namespace's thread has ended")
	}
}

func (t *nsThread) close() {
	if t != nil {
		close(t.work)
		<-t.done
	}
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return netlink.LinkSetUp(lo)
}
