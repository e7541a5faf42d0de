package loop

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLoopTimersInOrder(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	go l.Run()
	got := make(chan int, 4)
	l.Do(func() {
		l.After(30*time.Millisecond, func() { got <- 3 })
		l.After(10*time.Millisecond, func() { got <- 1 })
		never := l.After(15*time.Millisecond, func() { got <- 99 })
		l.After(20*time.Millisecond, func() { got <- 2 })
		l.Cancel(never)
		l.Cancel(never)
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
	l.Stop()
	if l.Do(func() {}) {
		t.Error("Do ran a function after Stop")
	}
}

// note counts its events.
type note struct {
	l *Loop
	n int
}

func (n *note) Ready(uint32) { n.n++ }

// An event of a descriptor closed in the same turn must not reach the descriptor that reuses its
// number.
func TestLoopForgetsEventsOfClosedDescriptors(t *testing.T) {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	old, young := &note{l: l}, &note{l: l}
	a, err := unix.Eventfd(1, unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Add(a, unix.EPOLLIN, old); err != nil {
		t.Fatal(err)
	}
	events := make([]unix.EpollEvent, 4)
	n, err := unix.EpollWait(l.epoll, events, 1000)
	if err != nil || n != 1 {
		t.Fatal(n, err)
	}
	l.Close(a)
	b, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	if err != nil || b != a {
		t.Fatalf("descriptor %d, %v, want %d again", b, err, a)
	}
	if err := l.Add(b, unix.EPOLLIN, young); err != nil {
		t.Fatal(err)
	}
	l.deliver(events[:n])
	if old.n+young.n != 0 {
		t.Errorf("an old event was delivered: %d, %d", old.n, young.n)
	}
	l.Close(b)
	go l.Run()
	l.Stop()
}
