package link

import (
	"bytes"
	"testing"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
)

var (
	cardIP = [4]byte{10, 99, 0, 1}
	hostIP = [4]byte{10, 99, 0, 2}
	sizes  = []int{28, 29, 60, 576, 1500, 4070, 4096, 9000, 32768, 65000, 65534, 65535}
)

// cards are the ways a driver may lay its rings out.
var cards = map[string]fakecard.Options{
	"plain":              {},
	"indirect":           {Indirect: true, Segments: 4},
	"no mergeable":       {NoMergeable: true},
	"big buffers":        {NoMergeable: true, Indirect: true, Segments: 18},
	"direct chains":      {NoMergeable: true, Segments: 17},
	"no event index":     {NoEventIdx: true},
	"small buffers":      {Buffer: 128, Size: 1024},
	"size 1024":          {Size: 1024},
	"two regions":        {Split: true},
	"index wraps":        {Base: 65530},
	"index at the seam":  {Base: 65535, NoEventIdx: true},
	"only large enough":  {Size: 32, Buffer: 2100},
	"mixed everything":   {Indirect: true, Segments: 3, NoEventIdx: true, Split: true, Base: 65500, Buffer: 1536},
	"one entry each way": {Size: 1, NoMergeable: true},
}

// Packets of every size pass both ways, whole and unchanged.
func TestBothWays(t *testing.T) {
	for name, o := range cards {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{card: o})
			buf := make([]byte, fakecard.FrameMax)
			for round := range 3 {
				for _, n := range sizes {
					down := fakecard.UDP(hostIP, cardIP, uint16(round), 9, n)
					w.send(t, vnet{}, down)
					got, err := w.card.Recv(buf)
					if err != nil {
						t.Fatalf("%d bytes to the card: %v; %+v", n, err, w.k.Stats())
					}
					if !bytes.Equal(buf[frame.SeamLen:got], down) {
						t.Fatalf("%d bytes to the card arrived as %d others", n, got-frame.SeamLen)
					}
					up := fakecard.UDP(cardIP, hostIP, uint16(round), 9, n)
					if err := w.card.Send(fakecard.Frame(up)); err != nil {
						t.Fatalf("%d bytes to the host: %v", n, err)
					}
					if _, b := w.want(t); !bytes.Equal(b, up) {
						t.Fatalf("%d bytes to the host arrived as %d others", n, len(b))
					}
				}
			}
			want := uint64(3 * len(sizes))
			w.stat(t, "packets to the card", func(s QueueStats) uint64 { return s.ToCard.Packets }, want)
			w.stat(t, "packets to the host", func(s QueueStats) uint64 { return s.ToHost.Packets }, want)
			w.stat(t, "drops", func(s QueueStats) uint64 { return s.ToHost.Drops.Total() + s.ToCard.Drops.Total() }, 0)
			if e := w.news(); len(e) > 0 {
				t.Errorf("events: %q", e)
			}
		})
	}
}
