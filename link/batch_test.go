package link

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
)

// halted stops the pump while f fills its queues. The pump sleeps before that, with
// nothing to do.
func (w *world) halted(t *testing.T, f func()) {
	t.Helper()
	pid := w.k.PumpPID()
	for range 5 { // not only between two naps
		threadsAre(t, pid, 'S')
		time.Sleep(5 * time.Millisecond)
	}
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer unix.Kill(pid, unix.SIGCONT)
	threadsAre(t, pid, 'T')
	f()
}

// threadsAre waits until all threads of a process are in a state, proc(5).
func threadsAre(t *testing.T, pid int, state byte) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if err != nil || len(all) == 0 {
			t.Fatalf("threads of pump %d: %d, %v", pid, len(all), err)
		}
		others := 0
		for _, name := range all {
			if b, err := os.ReadFile(name); err != nil || b[bytes.LastIndexByte(b, ')')+2] != state {
				others++
			}
		}
		if others == 0 {
			return
		}
	}
	t.Fatalf("the threads of pump %d are not all in state %c", pid, state)
}

// One notification per batch: packets that the pump finds together cause one
// notification, with and without event indexes, both ways.
func TestOneCallPerBatch(t *testing.T) {
	const packets = 100 // fewer than a turn's, and of fewer bytes than callBytes
	for name, o := range map[string]fakecard.Options{"event index": {}, "flags": {NoEventIdx: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{process: true, card: o})
			rx, tx := w.card.Pair(0)
			w.passes(t) // the first call comes in any case
			up := make([][]byte, packets)
			for i := range up {
				up[i] = fakecard.Frame(fakecard.UDP(cardIP, hostIP, 1, 9, 1000))
			}
			if err := tx.Flush(); err != nil {
				t.Fatal(err)
			}
			var before QueueStats
			w.halted(t, func() {
				before = w.k.Stats()[0]
				tx.Arm()
				if n, err := tx.SendBatch(up); n != packets || err != nil {
					t.Fatalf("%d queued: %v", n, err)
				}
			})
			w.stat(t, "to the host", func(s QueueStats) uint64 { return s.ToHost.Packets - before.ToHost.Packets }, packets)
			w.halted(t, func() {
				rx.Arm()
				for range packets {
					w.send(t, vnet{}, fakecard.UDP(hostIP, cardIP, 1, 9, 1000))
				}
			})
			w.stat(t, "to the card", func(s QueueStats) uint64 { return s.ToCard.Packets - before.ToCard.Packets }, packets)
			after := w.k.Stats()[0]
			for way, calls := range map[string]uint64{"host": called(before.ToHost, after.ToHost), "card": called(before.ToCard, after.ToCard)} {
				if calls != 1 {
					t.Errorf("%d calls for %d packets to the %s, want 1", calls, packets, way)
				}
			}
			if kicks := after.ToHost.Kicks - before.ToHost.Kicks; kicks > 1 {
				t.Errorf("woken %d times for %d packets, want once", kicks, packets)
			}
		})
	}
}

// called is how often a driver was called between two looks, but for calls that
// were repeated because it did not act on them.
func called(before, after Direction) uint64 {
	return after.Calls - after.Recalls - (before.Calls - before.Recalls)
}
