package link

import (
	"testing"
	"time"

	"github.com/toe-project/toe/link/fakecard"
)

// A pump that spins needs no wake-up for what comes soon after a packet: the
// driver is not asked for kicks. Without, each packet takes one. When nothing
// comes for longer, it sleeps.
func TestSpin(t *testing.T) {
	for _, c := range []struct {
		name string
		spin time.Duration
		o    fakecard.Options
	}{
		{"spinning", MaxSpin, fakecard.Options{}},
		{"spinning, no event index", MaxSpin, fakecard.Options{NoEventIdx: true}},
		{"not spinning", 0, fakecard.Options{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{process: true, device: func(d *Device) { d.Spin = c.spin }, card: c.o})
			_, tx := w.card.Pair(0)
			w.passes(t)
			const packets = 100
			most := uint64(packets)
			before, slow := tx.Kicks, uint64(0)
			for range packets {
				began := time.Now()
				w.up(t)
				time.Sleep(time.Millisecond)
				if time.Since(began) > MaxSpin/2 {
					slow++ // on a busy machine it may have gone to sleep
				}
			}
			if c.spin > 0 {
				most = slow
			}
			if kicks := tx.Kicks - before; kicks > most+1 || c.spin == 0 && kicks < packets-1 {
				t.Errorf("%d kicks for %d packets, of which %d came late", kicks, packets, slow)
			}
			w.idle(t)
			before = tx.Kicks
			time.Sleep(2 * MaxSpin)
			w.up(t)
			if tx.Kicks != before+1 {
				t.Errorf("%d kicks for a packet after a pause, want 1", tx.Kicks-before)
			}
		})
	}
}

// What is no time to spin is refused.
func TestSpinBounds(t *testing.T) {
	for spin, want := range map[time.Duration]bool{-1: false, 0: true, MaxSpin: true, MaxSpin + 1: false} {
		d := Device{Name: "test", MAC: make([]byte, 6), MTU: 1500, Files: newBareFile(t), Spin: spin}
		if err := d.check(); (err == nil) != want {
			t.Errorf("%s: %v", spin, err)
		}
		closeAll(d.Files)
	}
}
