package bench

import (
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
)

// places holds the buffers of a bare loop's packets: one vector after the other, cyclically.
type places [][]unix.Iovec

// touched returns memory whose pages are present.
func touched(size int) []byte {
	mem := make([]byte, size)
	for i := 0; i < len(mem); i += 4096 {
		mem[i] = 1
	}
	return mem
}

func iovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b)) // Len has the size of a word
	return v
}

// oneHot is the cheapest layout: every packet in the same contiguous place, which stays in the
// cache.
func oneHot(packet []byte) places {
	b := touched(slot(len(packet)))
	copy(b, packet)
	return places{{iovec(make([]byte, frame.HeaderLen)), iovec(b[:len(packet)])}}
}

// likeSend is the layout that the fake card sends from: a contiguous place for
// each entry of the ring.
func likeSend(packet []byte) places {
	header, stride := make([]byte, frame.HeaderLen), slot(len(packet))
	mem := touched(ringSize * stride)
	var p places
	for i := range ringSize {
		b := mem[i*stride:][:len(packet)]
		copy(b, packet)
		p = append(p, []unix.Iovec{iovec(header), iovec(b)})
	}
	return p
}

// likeReceive is the layout that the fake card receives to: a buffer for each
// entry of the ring, of which a packet takes as many in turn as it needs, the
// first one beginning with the headers of the bus.
func likeReceive(packet []byte) places {
	header, size := make([]byte, frame.HeaderLen), receiveBuffer(len(packet))
	mem := touched(ringSize * size)
	var p places
	for next := 0; ; {
		v := []unix.Iovec{iovec(header)}
		for left, skip := len(packet), frame.SeamLen; left > 0; skip = 0 {
			n := min(left, size-skip)
			v = append(v, iovec(mem[next*size+skip:][:n]))
			left -= n
			next = (next + 1) % ringSize
		}
		p = append(p, v)
		if next == 0 || len(p) == ringSize {
			return p
		}
	}
}
