package link

import (
	"bytes"
	"testing"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
)

// passesDown sends one packet of n bytes to the card, which must arrive whole.
func (w *world) passesDown(t *testing.T, n int) {
	t.Helper()
	down := fakecard.UDP(hostIP, cardIP, uint16(n), 9, n)
	w.send(t, vnet{}, down)
	buf := make([]byte, fakecard.FrameMax)
	got, err := w.card.Recv(buf)
	if err != nil {
		t.Fatalf("%d bytes to the card: %v; %+v", n, err, w.k.Stats()[0].ToCard)
	}
	if !bytes.Equal(buf[frame.SeamLen:got], down) {
		t.Fatalf("%d bytes to the card arrived as %d others", n, got-frame.SeamLen)
	}
}

// Buffers that are just large enough for the largest packet of a link take it:
// there is no VLAN tag on a link.
func TestBufferOfTheLargestPacket(t *testing.T) {
	w := newWorld(t, worldOptions{card: fakecard.Options{NoMergeable: true, Buffer: frame.SeamLen + frame.MaxPacket}})
	w.passesDown(t, frame.MaxPacket)
	w.stat(t, "too small", func(s QueueStats) uint64 { return s.ToCard.Drops.TooSmall }, 0)
}

// A ring with all descriptors taken has no more buffers, also if its chains have
// several descriptors. Packets that fit pass.
func TestRingOfLongChainsIsSmall(t *testing.T) {
	for _, o := range []fakecard.Options{
		{Size: 32, Segments: 4, Buffer: 1536},
		{Size: 32, Segments: 3, Buffer: 1536}, // two descriptors are left over
	} {
		w := newWorld(t, worldOptions{card: o})
		for range 20 {
			w.passesDown(t, 5000)
		}
	}
}

// A bad chain behind good ones does not keep the buffers behind it from a packet
// that needs them.
func TestBadChainBehindGoodOnes(t *testing.T) {
	w := newWorld(t, worldOptions{card: fakecard.Options{}})
	rx, _ := w.card.Pair(0)
	// 17 buffers are taken when the ring starts, so this one comes with the
	// second packet.
	rx.SetDesc(18, fakecard.Desc{Addr: rx.BufferAddr(18), Len: 4096})
	for _, n := range []int{4000, 4000, frame.MaxPacket, frame.MaxPacket, 100} {
		w.passesDown(t, n)
	}
	w.stat(t, "bad chains", func(s QueueStats) uint64 { return s.ToCard.BadChains }, 1)
	w.stat(t, "drops", func(s QueueStats) uint64 { return s.ToCard.Drops.Total() }, 0)
}

// The pump's own header takes one of the segments of a writev.
func TestChainOfTooManySegments(t *testing.T) {
	const each = 58 // bytes, with a gap behind them: side by side they would be one
	for segments, bad := range map[int]uint64{maxIov - 1: 0, maxIov: 1} {
		w := newWorld(t, worldOptions{card: fakecard.Options{Size: 2048, SendBuffer: each}})
		_, tx := w.card.Pair(0)
		up := fakecard.Frame(fakecard.UDP(cardIP, hostIP, 1, 9, each*segments-frame.SeamLen))
		for i := range segments {
			copy(w.card.Memory()[tx.BufferAddr(i)-fakecard.GuestBase:], up[i*each:(i+1)*each])
			tx.SetDesc(i, fakecard.Desc{Addr: tx.BufferAddr(i), Len: each, Flags: fakecard.Next, Next: uint16(i + 1)})
		}
		tx.SetDesc(segments-1, fakecard.Desc{Addr: tx.BufferAddr(segments - 1), Len: each})
		tx.SetAvail(0, 0)
		tx.SetAvailIdx(1)
		tx.Kick()
		w.stat(t, "bad chains", func(s QueueStats) uint64 { return s.ToHost.BadChains }, bad)
		w.stat(t, "packets", func(s QueueStats) uint64 { return s.ToHost.Packets }, 1-bad)
		w.stat(t, "refused", func(s QueueStats) uint64 { return s.ToHost.Drops.Refused }, 0)
		if bad == 0 {
			if _, b := w.want(t); !bytes.Equal(b, up[frame.SeamLen:]) {
				t.Errorf("%d bytes arrived as %d others", len(up)-frame.SeamLen, len(b))
			}
		}
	}
}
