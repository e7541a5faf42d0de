package offload

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLoopTimersInOrder(t *testing.T) {
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	go l.run()
	got := make(chan int, 4)
	l.do(func() {
		l.after(30*time.Millisecond, func() { got <- 3 })
		l.after(10*time.Millisecond, func() { got <- 1 })
		never := l.after(15*time.Millisecond, func() { got <- 99 })
		l.after(20*time.Millisecond, func() { got <- 2 })
		l.cancel(never)
		l.cancel(never)
	})
	for want := 1; want <= 3; want++ {
		select {
		case n := <-got:
			if n != want {
				t.Fatalf("timer %d, want %d", n, want)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("timer %d did not run in 5 s", want)
		}
	}
	l.stop()
	if l.do(func() {}) {
		t.Error("an order was obeyed after stop")
	}
}

// note counts its events.
type note struct {
	l *loop
	n int
}

func (n *note) ready(uint32) { n.n++ }

// An event of a descriptor that was closed in the same turn must not reach
// the one that got its number.
func TestLoopForgetsEventsOfClosedDescriptors(t *testing.T) {
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	old, young := &note{l: l}, &note{l: l}
	a, err := unix.Eventfd(1, unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.add(a, unix.EPOLLIN, old); err != nil {
		t.Fatal(err)
	}
	events := make([]unix.EpollEvent, 4)
	n, err := unix.EpollWait(l.epoll, events, 1000)
	if err != nil || n != 1 {
		t.Fatal(n, err)
	}
	l.drop(a)
	b, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	if err != nil || b != a {
		t.Fatalf("descriptor %d, %v, want %d again", b, err, a)
	}
	if err := l.add(b, unix.EPOLLIN, young); err != nil {
		t.Fatal(err)
	}
	l.deliver(events[:n])
	if old.n+young.n != 0 {
		t.Errorf("an old event was delivered: %d, %d", old.n, young.n)
	}
	l.drop(b)
	go l.run()
	l.stop()
}
