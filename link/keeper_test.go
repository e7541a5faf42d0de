package link

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
)

// puppet is a pump that only answers, until do ends it. It refuses the ring
// with the number refused.
func puppet(orders *os.File, refused int, do func(fd int, o order) bool) (Process, error) {
	return actor(orders, func(fd int, o order) (string, bool) {
		if !do(fd, o) {
			return "", false
		}
		if o.Op == opStart && o.Index == refused {
			return "not in the memory", true
		}
		return "", true
	})
}

// actor is a pump that answers each order with what do says: an error's text or
// none, and false to end.
func actor(orders *os.File, do func(fd int, o order) (refusal string, stay bool)) (Process, error) {
	fd, err := unix.FcntlInt(orders.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &inside{fd: fd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer unix.Close(fd)
		for {
			var o order
			passed, err := receivePacket(fd, &o)
			fds.Close(passed)
			a := answer{Seq: o.Seq}
			if err != nil {
				return
			}
			stay := false
			if a.Error, stay = do(fd, o); !stay || fds.Socket(fd).Send(a) != nil {
				return
			}
		}
	}()
	return p, nil
}

// newLaunched makes a world on a stream socket, whose peer it keeps, with pumps
// that the test supplies and no card yet.
func newLaunched(t *testing.T, how func(*Options)) *world {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{host: &host{sock: fds[1]}, path: filepath.Join(t.TempDir(), "s")}
	t.Cleanup(func() { unix.Close(fds[1]) })
	opts := Options{Event: w.event}
	how(&opts)
	w.k, err = NewKeeper(Device{
		Name: "test", Socket: w.path, MAC: net.HardwareAddr{2, 1, 2, 3, 4, 5}, MTU: 65535,
		Files: []*os.File{os.NewFile(uintptr(fds[0]), "near")}, Stream: true,
	}, opts)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.k.Serve(t.Context()) }()
	t.Cleanup(func() {
		w.k.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return w
}

// launcher counts generations of pumps, each of which is made as it says.
func launcher(k *Options, how func(generation int32, orders *os.File) (Process, error)) *atomic.Int32 {
	n := new(atomic.Int32)
	k.Launch = func(orders *os.File) (Process, error) { return how(n.Add(1), orders) }
	return n
}

// within fails where f takes longer than the limit.
func within(t *testing.T, limit time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(limit):
		t.Fatalf("%s took more than %s", what, limit)
	}
}

// Close does not wait for the next try to start a pump.
func TestCloseWhileNoPumpStarts(t *testing.T) {
	w := newLaunched(t, func(o *Options) {
		launcher(o, func(n int32, orders *os.File) (Process, error) {
			if n == 1 {
				return here(orders)
			}
			return nil, errors.New("no more processes")
		})
	})
	w.kill()
	w.hears(t, "the next one starts in")
	within(t, 2*time.Second, "Close", func() { w.k.Close() })
}

// A pump that makes up answers can be replaced and closed like any other.
func TestAnswersThatNobodyAskedFor(t *testing.T) {
	w := newLaunched(t, func(o *Options) {
		launcher(o, func(n int32, orders *os.File) (Process, error) {
			if n > 1 {
				return here(orders)
			}
			return puppet(orders, -1, func(fd int, o order) bool {
				fds.Socket(fd).Send(answer{Seq: o.Seq})
				for i := range 20 {
					fds.Socket(fd).Send(answer{Seq: uint64(1000 + i)})
				}
				return true
			})
		})
	})
	w.kill()
	w.hears(t, "replaced by")
	within(t, 2*time.Second, "Close", func() { w.k.Close() })
}

// Three pumps in a row die during the order to stop a ring. The conversation
// ends. The device keeps working.
func TestStopThatNoPumpDoes(t *testing.T) {
	w := newLaunched(t, func(o *Options) {
		launcher(o, func(n int32, orders *os.File) (Process, error) {
			if n > 3 {
				return here(orders)
			}
			return puppet(orders, -1, func(_ int, o order) bool { return o.Op != opStop })
		})
	})
	card, err := fakecard.Connect(w.path, fakecard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	if _, err := card.Stop(0); err == nil {
		t.Fatal("a ring counts as stopped although no pump stopped it")
	}
	if err := card.Redial(w.path); err != nil {
		t.Fatal(err)
	}
	body := fakecard.Frame(fakecard.UDP(hostIP, cardIP, 1, 9, 100))[frame.HeaderLen:]
	unix.Write(w.sock, append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...))
	if _, err := card.Recv(make([]byte, fakecard.FrameMax)); err != nil {
		t.Fatalf("%v; events %q", err, w.news())
	}
}

// A pump may die between showing the driver used buffers and calling. Its
// successor calls at once, although there is nothing new to show. Otherwise a
// driver with a full ring would never wake.
func TestNewPumpCalls(t *testing.T) {
	w := newLaunched(t, func(o *Options) { o.Launch = here })
	card, err := fakecard.Connect(w.path, fakecard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	calls := func(s QueueStats) uint64 { return s.ToCard.Calls + s.ToHost.Calls }
	before := calls(w.k.Stats()[0])
	w.kill()
	w.hears(t, "replaced by")
	w.stat(t, "calls", calls, before+2)
}

// A ring that the next pump refuses is lost. The keeper does not make up an
// index when the front end asks for it.
func TestStopOfRingThatWasLost(t *testing.T) {
	w := newLaunched(t, func(o *Options) {
		launcher(o, func(n int32, orders *os.File) (Process, error) {
			if n != 2 {
				return here(orders)
			}
			return puppet(orders, 0, func(int, order) bool { return true })
		})
	})
	card, err := fakecard.Connect(w.path, fakecard.Options{Base: 77})
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	w.kill()
	w.hears(t, "replaced by")
	if base, err := card.Stop(0); err == nil {
		t.Errorf("the ring stopped at %d", base)
	}
}

// The counters can be read while a pump does not answer.
func TestStatsWhilePumpHangs(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	w := newLaunched(t, func(o *Options) {
		launcher(o, func(n int32, orders *os.File) (Process, error) {
			return puppet(orders, -1, func(_ int, o order) bool {
				if o.Op == opStop && o.Index == 0 && n == 1 {
					close(asked)
					<-answer
				}
				return true
			})
		})
	})
	card, err := fakecard.Connect(w.path, fakecard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	stopped := make(chan error, 1)
	go func() {
		_, err := card.Stop(0)
		stopped <- err
	}()
	<-asked
	within(t, time.Second, "reading", func() {
		if s, pid := w.k.Stats(), w.k.PumpPID(); len(s) != 1 || pid == 0 {
			t.Errorf("counters %v of pump %d", s, pid)
		}
	})
	close(answer)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// kill kills the present pump.
func (w *world) kill() {
	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	w.k.pump.process.Kill()
}

// hears waits for an event.
func (w *world) hears(t *testing.T, part string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, e := range w.news() {
			if strings.Contains(e, part) {
				return
			}
		}
	}
	t.Fatalf("no event with %q: %q", part, w.news())
}
