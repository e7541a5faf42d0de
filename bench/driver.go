package bench

import (
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The rings of the fake card: as large as User-Mode Linux has them.
const (
	ringSize  = 256
	availAt   = 4096  // behind 256 descriptors of 16 bytes
	usedAt    = 8192  // behind 6 + 2*256 bytes
	ringBytes = 16384 // for one ring, page aligned
)

// driverRing is the driver's side of a split ring (virtio 1.2 section 2.7)
// whose driver polls: it never asks for a call, and kicks where the device
// asks for that. Every descriptor is a chain of its own and its head is its
// place in the avail ring, since this device completes in order.
type driverRing struct {
	mem  []byte
	base uint64 // address of mem
	kick int
	call int
	next uint16 // avail index to publish next
	seen uint16 // used index seen last
}

func newDriverRing(mem []byte) (*driverRing, error) {
	r := &driverRing{mem: mem, base: uint64(uintptr(unsafe.Pointer(&mem[0]))), kick: -1, call: -1}
	var err error
	if r.kick, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err == nil {
		r.call, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err != nil {
		return r, fmt.Errorf("eventfd: %w", err)
	}
	return r, nil
}

func (r *driverRing) close() {
	for _, fd := range []int{r.kick, r.call} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func (r *driverRing) word(at int) *uint32 { return (*uint32)(unsafe.Pointer(&r.mem[at])) }

func (r *driverRing) half(at int) *uint16 { return (*uint16)(unsafe.Pointer(&r.mem[at])) }

// describe fills descriptor i: size bytes at card address addr.
func (r *driverRing) describe(i int, addr uint64, size uint32, write bool) {
	const deviceWrites = 2
	at := 16 * i
	*(*uint64)(unsafe.Pointer(&r.mem[at])) = addr
	*r.word(at + 8) = size
	*r.half(at + 12) = 0
	if write {
		*r.half(at + 12) = deviceWrites
	}
	*r.half(availAt + 4 + 2*i) = uint16(i)
}

// publish makes n more heads available and kicks the device if it wants that.
// The index shares an aligned word with the flags, which are 0.
func (r *driverRing) publish(n uint16) {
	old := r.next
	r.next += n
	atomic.StoreUint32(r.word(availAt), uint32(r.next)<<16)
	event := uint16(atomic.LoadUint32(r.word(usedAt + 4 + 8*ringSize)))
	if r.next-event-1 < r.next-old {
		one := [8]byte{1}
		unix.Write(r.kick, one[:])
	}
}

// completed says how many heads the device has given back since it was asked
// last, and puts the wish for a call out of its reach again.
func (r *driverRing) completed() uint16 {
	used := uint16(atomic.LoadUint32(r.word(usedAt)) >> 16)
	n := used - r.seen
	r.seen = used
	*r.half(availAt + 4 + 2*ringSize) = used - 0x4000
	return n
}
