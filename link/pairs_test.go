package link

import (
	"testing"
	"time"

	"github.com/toe-project/toe/link/fakecard"
)

// flows sends packets of n flows to the card and returns how many came on each
// queue pair.
func (w *world) flows(t *testing.T, pairs, n int) []int {
	t.Helper()
	for i := range n {
		w.send(t, vnet{}, fakecard.UDP(hostIP, cardIP, uint16(1000+i), 9, 100))
	}
	got, all := make([]int, pairs), 0
	for deadline := time.Now().Add(3 * time.Second); all < n && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for i := range got {
			rx, _ := w.card.Pair(i)
			k, _, err := rx.Drain(n)
			if err != nil {
				t.Fatal(err)
			}
			got[i] += k
			all += k
		}
	}
	if all != n {
		t.Errorf("%d of %d packets came, per pair %v; %+v", all, n, got, w.k.Stats())
	}
	return got
}

// Packets go only to queue pairs that the card has enabled, for every set of pairs
// and after each change. No packet is lost by a change.
func TestPairsThatAreOff(t *testing.T) {
	w := newWorld(t, worldOptions{card: fakecard.Options{Pairs: 3, Disabled: true}})
	enable := func(pair int, on bool) {
		for _, ring := range []int{2 * pair, 2*pair + 1} {
			if err := w.card.Enable(ring, on); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(20 * time.Millisecond) // the front end is told when it is done, the TUN's flows are not
	}
	is := func(got []int, on ...bool) {
		t.Helper()
		for i, n := range got {
			if (n > 0) != on[i] {
				t.Errorf("packets per pair %v, pairs on %v", got, on)
				return
			}
		}
	}
	enable(0, true)
	is(w.flows(t, 3, 60), true, false, false)
	enable(1, true)
	is(w.flows(t, 3, 60), true, true, false)
	enable(2, true)
	is(w.flows(t, 3, 90), true, true, true)
	enable(0, false)
	is(w.flows(t, 3, 90), false, true, true)
	if e := w.news(); len(e) > 0 {
		t.Errorf("events %q", e)
	}
}

// A card that uses only one pair of a device with several gets every packet.
func TestPairsThatNobodyStarts(t *testing.T) {
	h := newHost(t, false, 4)
	w := newWorldOn(t, h, worldOptions{card: fakecard.Options{Refuse: 1 << 22}})
	if got := w.flows(t, 1, 60); got[0] != 60 {
		t.Errorf("%d of 60 packets", got[0])
	}
}
