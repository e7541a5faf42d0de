package link

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/vhostuser"
)

// A memory table that the next pump refuses would be refused by every later pump.
// The conversation ends, once, and the front end is served when it reconnects.
func TestMemoryRefusedAtLaunch(t *testing.T) {
	var launched *atomic.Int32
	w := newLaunched(t, func(o *Options) {
		launched = launcher(o, func(n int32, orders *os.File) (Process, error) {
			once := true
			return actor(orders, func(_ int, o order) (string, bool) {
				if n > 1 && o.Op == opMemory && once {
					once = false
					return "file cut short", true
				}
				return "", true
			})
		})
	})
	card, err := fakecard.Connect(w.path, fakecard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	w.kill()
	w.hears(t, "its memory: file cut short")
	within(t, 2*time.Second, "the end of the conversation", func() {
		for w.k.Connected() {
			time.Sleep(time.Millisecond)
		}
	})
	if err := card.Redial(w.path); err != nil {
		t.Fatal(err)
	}
	if n := launched.Load(); n != 2 {
		t.Errorf("%d pumps were started, want 2", n)
	}
}

// One pump did not take a ring, and the front end gives that ring a new call
// descriptor. The ring continues from the position in the card's memory, not from
// the base at which the front end started it.
func TestLostRingGoesOnFromMemory(t *testing.T) {
	resumed := make(chan bool, 8)
	w := newLaunched(t, func(o *Options) {
		launcher(o, func(n int32, orders *os.File) (Process, error) {
			started := 0
			return actor(orders, func(_ int, o order) (string, bool) {
				if n == 1 || o.Op != opStart || o.Index != 0 {
					return "", true
				}
				resumed <- o.Resume
				if started++; started == 1 {
					return "not in the memory", true
				}
				return "", true
			})
		})
	})
	card, err := fakecard.Connect(w.path, fakecard.Options{Base: 77})
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	w.kill()
	w.hears(t, "replaced by")
	r, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	call := os.NewFile(uintptr(r), "call")
	defer call.Close()
	if err := card.Front.Do(vhostuser.SetVringCall, fakecard.U64(0), call); err != nil {
		t.Fatal(err)
	}
	for _, which := range []string{"the next pump", "after SET_VRING_CALL"} {
		if !<-resumed {
			t.Errorf("%s is told to begin at the front end's base", which)
		}
	}
}

// Events are delivered without a lock held, so the receiver may call the keeper.
func TestEventsMayAsk(t *testing.T) {
	var mu sync.Mutex
	var keeper *Keeper
	asked := make(chan bool, 8)
	w := newLaunched(t, func(o *Options) {
		o.Launch = here
		o.Event = func(Event) {
			mu.Lock()
			defer mu.Unlock()
			asked <- keeper.Connected() && keeper.PumpPID() != 0 && len(keeper.Stats()) == 1
		}
	})
	mu.Lock()
	keeper = w.k
	mu.Unlock()
	w.kill()
	within(t, 2*time.Second, "an event that asks", func() { <-asked })
}

// A process with too many open files serves its front end later. It does not give
// up the device.
func TestServeOutlivesTooManyFiles(t *testing.T) {
	w := newLaunched(t, func(o *Options) { o.Launch = here })
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "front end")
	defer f.Close()
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: 3, Max: was.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	back := func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &was) }
	defer back()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: w.path}); err != nil {
		t.Fatal(err)
	}
	w.hears(t, "too many open files")
	back()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	front := fakecard.Front{Conn: c.(*net.UnixConn), Timeout: 5 * time.Second}
	if _, err := front.Get(vhostuser.GetFeatures); err != nil {
		t.Error(err)
	}
}
