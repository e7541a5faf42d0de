package link

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/link/fakecard"
)

// unanswered is a real pump whose answer to the first order that swallow picks is lost: the pump
// has executed it, works for a while, and dies.
func unanswered(orders *os.File, swallow func(order) bool) (Process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "orders")
	defer theirs.Close()
	inner, err := here(theirs)
	if err != nil {
		return nil, err
	}
	outer, err := unix.FcntlInt(orders.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &inside{fd: outer, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer unix.Close(outer)
		defer inner.Wait()
		defer unix.Close(pair[0])
		for {
			var raw json.RawMessage
			var o order
			passed, err := receivePacket(outer, &raw)
			if err != nil || json.Unmarshal(raw, &o) != nil {
				return
			}
			var files []*os.File
			for _, fd := range passed {
				files = append(files, os.NewFile(uintptr(fd), "passed"))
			}
			err = fds.Socket(pair[0]).Send(raw, files...)
			closeAll(files)
			for err == nil {
				var a answer
				if _, err = receivePacket(pair[0], &raw); err == nil {
					err = json.Unmarshal(raw, &a)
				}
				if err == nil && a.Seq == o.Seq {
					break
				}
				err = fds.Socket(outer).Send(raw)
			}
			if err != nil {
				return
			}
			if swallow(o) {
				time.Sleep(20 * time.Millisecond)
				return
			}
			if fds.Socket(outer).Send(raw) != nil {
				return
			}
		}
	}()
	return p, nil
}

// A pump dies after it has started a ring and before it answers. It may have moved packets. The
// next one continues from the ring's position: the host gets each packet once, and the used index
// does not go backwards.
func TestStartUnanswered(t *testing.T) {
	for _, lost := range []op{opStart, opRun} {
		t.Run(string(lost), func(t *testing.T) {
			starts := 0
			w := newWorldOn(t, newHost(t, false, 1), worldOptions{launch: func(n int32, orders *os.File) (Process, error) {
				if n > 1 {
					return here(orders)
				}
				return unanswered(orders, func(o order) bool {
					if o.Op != lost || o.Index != 1 {
						return false
					}
					starts++
					return starts == 2
				})
			}})
			w.passes(t)
			base, err := w.card.Stop(1)
			if err != nil {
				t.Fatal(err)
			}
			const packets = 5
			var frames [][]byte
			for i := range packets {
				frames = append(frames, fakecard.Frame(fakecard.UDP(cardIP, hostIP, 1, uint16(i), 100)))
			}
			if n, err := w.card.SendBatch(frames); n != packets || err != nil {
				t.Fatal(n, err)
			}
			if err := w.card.Start(1, base); err != nil {
				t.Fatal(err)
			}
			for i := range packets {
				if _, b := w.want(t); int(b[23]) != i {
					t.Errorf("packet %d came as number %d", b[23], i)
				}
			}
			w.hasEvent(t, "replaced by")
			if _, b, ok := w.recv(t, 200); ok {
				t.Errorf("packet %d came twice", b[23])
			}
			_, tx := w.card.Pair(0)
			if err := tx.Flush(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Pumps die before they have taken a ring. The ring keeps the base of the front end, since the
// card's memory does not hold a used index of this ring yet.
func TestStartNotTaken(t *testing.T) {
	bases := make(chan order, 8)
	w := newLaunched(t, func(o *Options) {
		launcher(o, func(n int32, orders *os.File) (Process, error) {
			return puppet(orders, -1, func(_ int, o order) bool {
				if o.Op != opStart || o.Index != 0 {
					return true
				}
				bases <- o
				return n > 3
			})
		})
	})
	card, err := fakecard.Connect(w.path, fakecard.Options{Base: 77})
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	w.hears(t, "replaced by")
	for n := range 4 {
		if o := <-bases; o.Resume || o.Ring.Base != 77 {
			t.Errorf("pump %d was told to go on from %d (from memory: %v), want 77", n+1, o.Ring.Base, o.Resume)
		}
	}
}
