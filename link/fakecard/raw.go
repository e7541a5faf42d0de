package fakecard

import (
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/le"
)

// Raw accesses, for tests that break the rules. Nothing is checked.

// SetDesc writes descriptor i.
func (r *Ring) SetDesc(i int, d Desc) {
	r.setDesc(r.at.desc+16*uint64(i), d)
}

func (r *Ring) setDesc(off uint64, d Desc) {
	*(*Desc)(r.p(off)) = Desc{le.U64(d.Addr), le.U32(d.Len), le.U16(d.Flags), le.U16(d.Next)}
}

// SetAvail writes entry i of the avail ring.
func (r *Ring) SetAvail(i int, head uint16) {
	*(*uint16)(r.p(r.at.avail + 4 + 2*uint64(i))) = le.U16(head)
}

// SetAvailIdx writes the avail index.
func (r *Ring) SetAvailIdx(v uint16) {
	r.store32(r.at.avail, r.load32(r.at.avail)&0xffff|uint32(v)<<16)
}

// AvailIdx is the next avail index that the driver fills.
func (r *Ring) AvailIdx() uint16 { return r.next }

// UsedIdx is the used index as the device wrote it.
func (r *Ring) UsedIdx() uint16 { return r.usedIdx() }

// Used is entry i of the used ring.
func (r *Ring) Used(i int) (id, size uint32) {
	v := le.U64(*(*uint64)(r.p(r.at.used + 4 + 8*uint64(i))))
	return uint32(v), uint32(v >> 32)
}

// BufferAddr is the guest address of a slot's buffer.
func (r *Ring) BufferAddr(slot int) uint64 {
	return GuestBase + r.at.buffers + uint64(slot)*uint64(r.at.stride)
}

// Broken reports whether the device has signalled the ring's error descriptor.
func (r *Ring) Broken() bool {
	r.poll[0] = unix.PollFd{Fd: int32(r.err.Fd()), Events: unix.POLLIN}
	n, err := unix.Poll(r.poll[:], 0)
	return err == nil && n > 0
}

// DescAddr is the guest address of the descriptor table.
func (r *Ring) DescAddr() uint64 { return GuestBase + r.at.desc }

// SendRaw sends a descriptor unchanged, instead of a frame in the next free
// slot, which must exist. It is only for rings without indirect tables.
func (r *Ring) SendRaw(d Desc) error {
	if err := r.reclaim(); err != nil {
		return err
	}
	slot := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	r.SetDesc(int(r.head(slot)), d)
	r.lengths[slot] = unwritten
	r.give(slot)
	r.show()
	return nil
}
