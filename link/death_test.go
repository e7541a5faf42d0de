package link

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/vhostuser"
)

// lingering is a process that lives on for a while after it has hung up, like a killed process
// before the kernel ends it.
type lingering struct {
	Process
	dead chan struct{}
}

func linger(p Process) *lingering {
	l := &lingering{p, make(chan struct{})}
	go func() {
		p.Wait()
		time.Sleep(100 * time.Millisecond)
		close(l.dead)
	}()
	return l
}

func (l *lingering) Wait() string { <-l.dead; return "ended" }

func (l *lingering) isDead() bool {
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// A pump that fails an order is killed. It is dead before the front end gets its answer and before
// another pump starts, since rings, memory and the host's end are handed on at those two points.
func TestDeathComesFirst(t *testing.T) {
	call := func(c *fakecard.Card) error {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "call")
		defer f.Close()
		return c.Front.Do(vhostuser.SetVringCall, fakecard.U64(0), f)
	}
	for _, c := range []struct {
		fails op
		ask   func(*fakecard.Card) error
	}{
		{opStop, func(c *fakecard.Card) error { _, err := c.Stop(0); return err }},
		{opEnable, func(c *fakecard.Card) error { return c.Enable(0, false) }},
		{opMemory, func(c *fakecard.Card) error { return c.SetMemory() }},
		{opStart, call},
	} {
		t.Run(string(c.fails), func(t *testing.T) {
			var armed atomic.Bool
			var before *lingering
			w := newLaunched(t, func(o *Options) {
				launcher(o, func(n int32, orders *os.File) (Process, error) {
					if before != nil && !before.isDead() {
						t.Errorf("pump %d starts while pump %d lives", n, n-1)
					}
					p, err := puppet(orders, -1, func(_ int, o order) bool {
						return n > 1 || !armed.Load() || o.Op != c.fails
					})
					before = linger(p)
					return before, err
				})
			})
			card, err := fakecard.Connect(w.path, fakecard.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer card.Close()
			first := before
			armed.Store(true)
			if err := c.ask(card); err != nil {
				t.Fatal(err)
			}
			if !first.isDead() {
				t.Error("the front end is told that it is done while the killed pump lives")
			}
			w.hears(t, "replaced")
		})
	}
}

// A front end that hangs up takes its memory back. A pump that does not release it is dead
// before the next front end is served.
func TestDeathBeforeNextFrontEnd(t *testing.T) {
	for _, fails := range []op{opStop, opMemory} {
		t.Run(string(fails), func(t *testing.T) {
			var armed atomic.Bool
			var first *lingering
			w := newLaunched(t, func(o *Options) {
				launcher(o, func(n int32, orders *os.File) (Process, error) {
					p, err := actor(orders, func(_ int, o order) (string, bool) {
						if n > 1 || !armed.Load() || o.Op != fails {
							return "", true
						}
						return "no", true
					})
					l := linger(p)
					if n == 1 {
						first = l
					}
					return l, err
				})
			})
			card, err := fakecard.Connect(w.path, fakecard.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer card.Close()
			armed.Store(true)
			card.Hangup()
			if err := card.Redial(w.path); err != nil {
				t.Fatal(err)
			}
			if !first.isDead() {
				t.Error("the pump that kept the memory lives")
			}
		})
	}
}

// A pump that cannot take the desired state is dead before the next one is started.
func TestDeathBeforeNextTry(t *testing.T) {
	var before *lingering
	w := newLaunched(t, func(o *Options) {
		launcher(o, func(n int32, orders *os.File) (Process, error) {
			if before != nil && !before.isDead() {
				t.Errorf("pump %d starts while pump %d lives", n, n-1)
			}
			p, err := puppet(orders, -1, func(_ int, o order) bool { return n != 2 })
			before = linger(p)
			return before, err
		})
	})
	w.kill()
	w.hears(t, "replaced by")
}

// A pump reports how many queue pairs the driver uses, and dies before its next message.
// The driver does not repeat the number.
func TestPairsOutliveTheirPump(t *testing.T) {
	var armed atomic.Bool
	h := newHost(t, false, 2)
	w := newWorldOn(t, h, worldOptions{noCard: true, launch: func(n int32, orders *os.File) (Process, error) {
		return puppet(orders, -1, func(fd int, o order) bool {
			if n > 1 || !armed.Load() || o.Op != opStop {
				return true
			}
			if err := fds.Socket(fd).Send(answer{Pairs: 2}); err != nil {
				t.Error(err)
			}
			return false
		})
	}})
	card, err := fakecard.Connect(w.path, fakecard.Options{Pairs: 2, Control: true})
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	armed.Store(true)
	if _, err := card.Stop(3); err != nil {
		t.Fatal(err)
	}
	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	if w.k.desired.pairs != 2 {
		t.Errorf("the driver uses %d pairs as far as the keeper knows, want 2", w.k.desired.pairs)
	}
}

// The wait for a killed pump that does not die is bounded. The front end gets an error, not a
// success.
func TestDeathThatDoesNotCome(t *testing.T) {
	never := make(chan struct{})
	w := newLaunched(t, func(o *Options) {
		o.dieWithin = 50 * time.Millisecond
		launcher(o, func(n int32, orders *os.File) (Process, error) {
			p, err := puppet(orders, -1, func(_ int, o order) bool { return n > 1 || o.Op != opEnable })
			if n > 1 {
				return p, err
			}
			return &lingering{p, never}, err
		})
	})
	card, err := fakecard.Connect(w.path, fakecard.Options{Disabled: true})
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	err = card.Enable(0, true)
	if err == nil {
		t.Error("the keeper reports success while a pump that it killed is alive")
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the front end got no answer")
	}
	close(never)
	w.hears(t, "replaced by") // by watch
}
