package link

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/vhostuser"
)

func pairsCommand(n int) []byte {
	return binary.LittleEndian.AppendUint16([]byte{classMQ, setPairs}, uint16(n))
}

// The control ring sets how many pairs the driver uses, independent of which are
// enabled. Packets go to those pairs, also after the pump was replaced. Other commands
// are refused.
func TestControl(t *testing.T) {
	w := newWorld(t, worldOptions{process: true, card: fakecard.Options{Pairs: 3, Control: true}})
	command := func(b []byte, want byte) {
		t.Helper()
		if ack, err := w.card.Command(b); err != nil || ack != want {
			t.Fatalf("command % x: acknowledged with %d, %v; want %d", b, ack, err, want)
		}
	}
	used := func(n int) {
		t.Helper()
		for i, got := range w.flows(t, 3, 90) {
			if (got > 0) != (i < n) {
				t.Errorf("%d packets on pair %d of %d that are used", got, i, n)
			}
		}
	}
	is := func(n int) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			w.k.mu.Lock()
			now := 0
			for _, off := range w.k.net.detached {
				if !off {
					now++
				}
			}
			w.k.mu.Unlock()
			if now == n {
				return
			}
		}
		t.Fatalf("the keeper has not steered to %d pairs", n)
	}
	is(1)
	used(1)
	command(pairsCommand(2), ackOK)
	is(2)
	used(2)
	for _, bad := range [][]byte{pairsCommand(0), pairsCommand(4), pairsCommand(65535), {classMQ}, {classMQ, setPairs, 1}, {classMQ, 1, 1, 0}, {0, 0, 1}, {1, 1, 2, 1, 2, 3, 4, 5, 6}} {
		command(bad, ackErr)
	}
	is(2)
	w.kill()
	w.hears(t, "replaced by")
	used(2)
	command(pairsCommand(3), ackOK)
	is(3)
	used(3)
	command(pairsCommand(1), ackOK)
	is(1)
	used(1)
}

// Malformed commands are returned, and the ring goes on.
func TestControlBadChains(t *testing.T) {
	w := newWorld(t, worldOptions{card: fakecard.Options{Pairs: 2, Control: true}})
	ring := w.card.Control()
	at := ring.BufferAddr(0)
	for name, d := range map[string][2]fakecard.Desc{
		"no acknowledgement": {{Addr: at, Len: 4, Flags: fakecard.Next, Next: 1}, {Addr: at, Len: 4}},
		"nothing to read":    {{Addr: at, Len: 4, Flags: fakecard.Next | fakecard.Write, Next: 1}, {Addr: at, Len: 4, Flags: fakecard.Write}},
		"written, then read": {{Addr: at, Len: 4, Flags: fakecard.Next | fakecard.Write, Next: 1}, {Addr: at, Len: 4}},
		"a loop":             {{Addr: at, Len: 4, Flags: fakecard.Next, Next: 1}, {Addr: at, Len: 4, Flags: fakecard.Next}},
		"outside":            {{Addr: 1 << 50, Len: 4, Flags: fakecard.Next, Next: 1}, {Addr: at, Len: 1, Flags: fakecard.Write}},
	} {
		if err := w.card.CommandRaw(d[:]); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if ack, err := w.card.Command(pairsCommand(2)); err != nil || ack != ackOK {
		t.Errorf("after bad chains: acknowledged with %d, %v", ack, err)
	}
}

// User-Mode Linux wants to know how many rings there are, QEMU how many pairs.
func TestQueueNum(t *testing.T) {
	w := newWorld(t, worldOptions{card: fakecard.Options{Pairs: 3}, noCard: true})
	for protocol, want := range map[uint64]uint64{1<<0 | 1<<3 | 1<<9: 7, 1<<0 | 1<<3 | 1<<4 | 1<<9 | 1<<16: 3} {
		card, err := fakecard.Connect(w.path, fakecard.Options{Pairs: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := card.Front.Do(vhostuser.SetProtocolFeatures, fakecard.U64(protocol)); err != nil {
			t.Fatal(err)
		}
		if n, err := card.Front.Get(vhostuser.GetQueueNum); err != nil || n != want {
			t.Errorf("protocol features %#x: %d queues, %v; want %d", protocol, n, err, want)
		}
		card.Close()
	}
}
