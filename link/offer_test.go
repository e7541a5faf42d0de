package link

import (
	"encoding/binary"
	"net"
	"os"
	"testing"
	"time"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/tun"
	"github.com/toe-project/toe/link/vhostuser"
)

// everyOffer calls f with every set of offloads that a kernel may have accepted,
// for devices of one pair and of several.
func everyOffer(f func(accepted tun.Offload, pairs int, features uint64)) {
	for o := range tun.Offload(1 << 7) {
		for _, pairs := range []int{1, 4} {
			d := Device{MAC: make([]byte, 6), MTU: 65535, Files: make([]*os.File, pairs)}
			f(o, pairs, d.features(o))
		}
	}
}

// A packed ring (CVE-2026-16457) is never offered. A front end that accepts it
// nevertheless is disconnected, before anything is shared with it.
func TestPackedRingNotOffered(t *testing.T) {
	const packed = 1 << 34 // VIRTIO_F_RING_PACKED
	everyOffer(func(o tun.Offload, pairs int, f uint64) {
		if f&packed != 0 {
			t.Errorf("offered with offloads %#x and %d pairs", o, pairs)
		}
	})
	w := newWorld(t, worldOptions{noCard: true})
	for _, extra := range []uint64{packed, packed | vhostuser.Version1} {
		front := dialFront(t, w.path)
		offer, err := front.Get(vhostuser.GetFeatures)
		if err != nil || offer&packed != 0 {
			t.Fatalf("offered %#x, %v", offer, err)
		}
		if err := front.Tell(vhostuser.SetFeatures, 0, fakecard.U64(extra)); err != nil {
			t.Fatal(err)
		}
		if _, err := front.Get(vhostuser.GetFeatures); err == nil {
			t.Errorf("features %#x were taken", extra)
		}
		front.Conn.Close()
	}
	w.hasEvent(t, "front end disconnected")
	var err error
	if w.card, err = fakecard.Connect(w.path, fakecard.Options{}); err != nil {
		t.Fatal(err)
	}
	w.passes(t)
}

// An offload offered for one direction is offered for the other, for every set that
// the kernel accepts (cloud-hypervisor 3451, libkrun 264: fast one way only).
func TestOffersBothWays(t *testing.T) {
	everyOffer(func(o tun.Offload, pairs int, f uint64) {
		for _, b := range []struct {
			name       string
			host, card uint64 // the host's side and the card's of one thing
			needs      tun.Offload
		}{
			{"checksum", vhostuser.NetCSum, vhostuser.NetGuestCSum, tun.CSum},
			{"TSO4", vhostuser.NetHostTSO4, vhostuser.NetGuestTSO4, tun.TSO4},
			{"TSO6", vhostuser.NetHostTSO6, vhostuser.NetGuestTSO6, tun.TSO6},
			{"ECN", vhostuser.NetHostECN, vhostuser.NetGuestECN, tun.ECN},
			{"USO", vhostuser.NetHostUSO, vhostuser.NetGuestUSO4 | vhostuser.NetGuestUSO6, tun.USO4 | tun.USO6},
		} {
			want := o&b.needs == b.needs
			if host, card := f&b.host == b.host, f&b.card == b.card; host != want || card != want {
				t.Errorf("offloads %#x, %d pairs: %s to the host %v, to the card %v, want %v", o, pairs, b.name, host, card, want)
			}
		}
	})
}

// Offloads that the driver does not accept are not used in either direction
// (cloud-hypervisor 3451, libkrun 264). The kernel segments packets for the card that
// the card does not accept whole. Packets that the card sends with such an offload are
// dropped. The accepted offloads keep working.
func TestRefusedEachWay(t *testing.T) {
	const big, segment = 9000, 1400
	for _, c := range []struct {
		name           string
		refuse         uint64
		toCard, toHost bool // large segments pass
	}{
		{"nothing refused", 0, true, true},
		{"to the card refused", vhostuser.NetGuestTSO4, false, true},
		{"to the host refused", vhostuser.NetHostTSO4, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, worldOptions{card: fakecard.Options{Refuse: c.refuse}})
			h, p := tcp(hostIP, cardIP, big, segment)
			w.send(t, h, p)
			buf := make([]byte, fakecard.FrameMax)
			n, err := w.card.Recv(buf)
			if err != nil {
				t.Fatal(err)
			}
			if whole := n == frame.SeamLen+big && buf[1] == frame.GSOTCPv4; whole != c.toCard || !whole && (n > frame.SeamLen+40+segment || buf[1] != 0) {
				t.Errorf("the card got a packet of %d bytes, header % x", n-frame.SeamLen, buf[:12])
			}

			h, p = tcp(cardIP, hostIP, big, segment)
			f := fakecard.Frame(p)
			copy(f, h[:])
			binary.LittleEndian.PutUint16(f[6:], 34)
			if err := w.card.Send(f); err != nil {
				t.Fatal(err)
			}
			if c.toHost {
				if got, b := w.want(t); len(b) != big || got[1] != frame.GSOTCPv4 {
					t.Errorf("the host got a packet of %d bytes, header % x", len(b), got)
				}
				return
			}
			w.stat(t, "dropped", func(s QueueStats) uint64 { return s.ToHost.Drops.Header }, 1)
			w.up(t)
		})
	}
}

// dialFront is a front end that says only what it is told to.
func dialFront(t *testing.T, path string) *fakecard.Front {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &fakecard.Front{Conn: c, Timeout: 5 * time.Second}
}
