package link

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/tun"
)

// super is a kind of packet that the kernel segments late: several TCP segments or
// UDP datagrams in one.
type super struct {
	name  string
	v6    bool
	proto byte
	gso   byte // gso_type
	needs tun.Offload
}

var supers = []super{
	{"TSO4", false, unix.IPPROTO_TCP, frame.GSOTCPv4, tun.TSO4},
	{"TSO4 with ECN", false, unix.IPPROTO_TCP, frame.GSOTCPv4 | frame.GSOECN, tun.TSO4 | tun.ECN},
	{"TSO6", true, unix.IPPROTO_TCP, frame.GSOTCPv6, tun.TSO6},
	{"TSO6 with ECN", true, unix.IPPROTO_TCP, frame.GSOTCPv6 | frame.GSOECN, tun.TSO6 | tun.ECN},
	{"USO, IPv4", false, unix.IPPROTO_UDP, frame.GSOUDPL4, tun.USO4 | tun.USO6},
	{"USO, IPv6", true, unix.IPPROTO_UDP, frame.GSOUDPL4, tun.USO4 | tun.USO6},
}

// packet makes one of size bytes with a partial checksum, which segmentation completes.
func (s super) packet(size int) []byte {
	b := fakecard.UDP(hostIP, cardIP, 1000, 2000, size)
	if s.v6 {
		clear(b[:40])
		b[0], b[6], b[7], b[8], b[24], b[23], b[39] = 0x60, s.proto, 64, 0xfd, 0xfd, 1, 2
		binary.BigEndian.PutUint16(b[4:], uint16(size-40))
	}
	l4 := b[s.start():]
	binary.BigEndian.PutUint16(l4, 1000)
	binary.BigEndian.PutUint16(l4[2:], 2000)
	if s.proto == unix.IPPROTO_UDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
		binary.BigEndian.PutUint16(l4[6:], 0x1234) // the pseudo header's sum, for all that the pump knows
		return b
	}
	if !s.v6 {
		_, b = tcp(hostIP, cardIP, size, 0)
		l4 = b[20:]
	}
	copy(l4[4:20], []byte{0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0})
	if s.gso&frame.GSOECN != 0 {
		l4[13] |= 0x80 // CWR: in the first segment only
	}
	return b
}

// start is the offset of the transport header in the packet.
func (s super) start() int {
	if s.v6 {
		return 40
	}
	return 20
}

// header is what a packet socket and a driver say of it, whose checksum begins at
// bytes further on.
func (s super) header(at int) (h vnet) {
	const segment = 1400
	offset, head := 16, 20 // of TCP
	if s.proto == unix.IPPROTO_UDP {
		offset, head = 6, 8
	}
	h[0], h[1] = frame.NeedsCSum, s.gso
	for i, v := range []int{at + s.start() + head, segment, at + s.start(), offset} {
		binary.LittleEndian.PutUint16(h[2+2*i:], uint16(v))
	}
	return h
}

// same compares two headers but for hdr_len, which is a hint.
func same(a, b []byte) bool { return bytes.Equal(a[:2], b[:2]) && bytes.Equal(a[4:10], b[4:10]) }

// Packets that are segmented late cross both ways unchanged, over a TUN and over a
// TAP, if the kernel supports them. Over a TUN the offsets in their header move by
// the Ethernet head. Over a TAP they do not.
func TestSuperPackets(t *testing.T) {
	ethernet := func(s super) []byte {
		b := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}
		if s.v6 {
			b[12], b[13] = 0x86, 0xdd
		}
		return b
	}
	for name, tap := range map[string]bool{"TUN": false, "TAP": true} {
		w := newWorld(t, worldOptions{tap: tap})
		buf := make([]byte, fakecard.FrameMax)
		for _, s := range supers {
			t.Run(name+"/"+s.name, func(t *testing.T) {
				if w.k.net.accepted&s.needs != s.needs {
					t.Skipf("this kernel's TUN does offloads %#x, and not %#x (USO: since Linux 6.2)", w.k.net.accepted, s.needs)
				}
				for _, size := range []int{3000, 60000} {
					p, skip := s.packet(size), frame.SeamLen // before what is p on the bus
					host, card := s.header(0), s.header(frame.EtherLen)
					if tap {
						p, skip, host = append(ethernet(s), p...), frame.HeaderLen, card
					}
					w.send(t, host, p)
					n, err := w.card.Recv(buf)
					if err != nil {
						t.Fatal(err)
					}
					if !same(buf, card[:]) || !bytes.Equal(buf[skip:n], p) {
						t.Errorf("%d bytes to the card: %d came, header % x, want % x", len(p), n-skip, buf[:10], card)
					}
					f := append(append(card[:], 0, 0), p...)
					if !tap {
						f = append(append(append(card[:], 0, 0), ethernet(s)...), p...)
					}
					if err := w.card.Send(f); err != nil {
						t.Fatal(err)
					}
					h, b := w.want(t)
					if !same(h[:], host[:]) || !bytes.Equal(b, p) {
						t.Errorf("%d bytes to the host: %d came, header % x, want % x", len(p), len(b), h, host)
					}
				}
				w.stat(t, "drops", func(s QueueStats) uint64 { return s.ToHost.Drops.Total() + s.ToCard.Drops.Total() }, 0)
			})
		}
	}
}
