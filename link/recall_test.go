package link

import (
	"testing"
	"time"

	"github.com/toe-project/toe/link/fakecard"
)

// A card that sleeps through calls, as User-Mode Linux sometimes does, is called
// again. Its packets do not wait until something else wakes it.
func TestLostCalls(t *testing.T) {
	buf := make([]byte, fakecard.FrameMax)
	for _, c := range []struct {
		lost    int
		signals bool
	}{{1, true}, {2, true}, {4, true}, {1, false}, {3, false}} {
		lost := c.lost
		w := newWorld(t, worldOptions{card: fakecard.Options{Timeout: 2 * time.Second, Signals: c.signals}})
		rx, tx := w.card.Pair(0)
		for round := range 3 {
			if round > 0 { // the first packet takes the call of the ring's start away
				rx.Lose = lost
			}
			received := make(chan error, 1)
			go func() {
				_, err := w.card.Recv(buf)
				received <- err
			}()
			for end := time.Now().Add(time.Second); !rx.Asleep() && time.Now().Before(end); {
				time.Sleep(100 * time.Microsecond)
			}
			w.send(t, vnet{}, fakecard.UDP(hostIP, cardIP, 1, 9, 100))
			if err := <-received; err != nil {
				t.Fatalf("%d calls lost, packet %d to the card: %v", lost, round, err)
			}
			if rx.Lose != 0 {
				t.Errorf("%d calls were not even made", rx.Lose)
			}
		}
		// A call that came while the driver was awake may be lost instead.
		again := int(w.k.Stats()[0].ToCard.Recalls)
		if again < max(1, 2*lost-2) {
			t.Errorf("%d calls lost twice: %d made again", lost, again)
		}

		// Every buffer is sent, and the driver waits to get one back.
		up := fakecard.Frame(fakecard.UDP(cardIP, hostIP, 1, 9, 100))
		tx.Lose = lost
		for range 256 {
			if err := w.card.Send(up); err != nil {
				t.Fatal(err)
			}
		}
		if err := tx.Flush(); err != nil {
			t.Fatalf("%d calls lost, to the host: %v", lost, err)
		}
	}
}

// The recalls of a driver that does not need calls end. A driver that answers is
// not called twice.
func TestRecallsEnd(t *testing.T) {
	w := newWorld(t, worldOptions{process: true, card: fakecard.Options{Signals: true}})
	get := func(s QueueStats) uint64 { return s.ToCard.Recalls }
	buf := make([]byte, fakecard.FrameMax)
	for range 10 {
		w.send(t, vnet{}, fakecard.UDP(hostIP, cardIP, 1, 9, 100))
		if _, err := w.card.Recv(buf); err != nil {
			t.Fatal(err)
		}
		// As Linux does when it has taken all: call me for the next.
		rx, _ := w.card.Pair(0)
		rx.Arm()
	}
	// On a busy machine it may have answered late.
	before := get(w.k.Stats()[0])
	time.Sleep(50 * time.Millisecond)
	if n := get(w.k.Stats()[0]) - before; n != 0 {
		t.Errorf("a driver that has answered was called %d times more", n)
	}
	w.send(t, vnet{}, fakecard.UDP(hostIP, cardIP, 1, 9, 100))
	const most = 10 // 1, 2, 4 … 512 ms
	w.stat(t, "repeated calls", get, before+most)
	time.Sleep(2 * mostPause)
	w.stat(t, "repeated calls, after longer", get, before+most)
	w.idle(t)
}
