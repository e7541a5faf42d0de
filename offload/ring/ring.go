// Package ring makes system calls in batches: io_uring(7).
//
// A caller queues receives and sends, each with a buffer of the ring, and Submit makes them all
// with one system call. On User-Mode Linux, where a system call takes about 11 µs, a batch costs
// little more than one.
//
// No queued call waits: it has been made when Submit returns, and EAGAIN is a result like any
// other. Only Wait waits, for events of an epoll descriptor. So the kernel keeps nothing between
// two calls but that wait. A descriptor can be closed whenever nothing is queued for it, its
// connection ends at once, and a connection at rest costs the ring nothing.
//
// The other side of the ring is the kernel, which is trusted. The wire controls the content of the
// buffers, which this package does not read, and the number of bytes received, which the kernel
// limits to the buffer.
package ring

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/raw"
)

const (
	// Batch is the number of buffers, and the maximum number of events of a result.
	Batch = 256
	// BufferSize is the size of a buffer, in bytes.
	BufferSize = 4 << 10

	// ArgSize is the maximum size of a message that Tell sends, in bytes.
	ArgSize = 64

	// entries is the size of the submission queue. The completion queue has twice as many.
	entries = 2 * Batch
)

// Ring is an io_uring instance. One thread uses it, that of Begin.
type Ring struct {
	fd      int
	regions [][]byte // mapped memory
	sq, cq  queue
	calls   []call
	results []result
	buffers []byte
	args    []byte // ArgSize bytes for each place in the submission queue
	events  []unix.EpollEvent

	queued  uint32 // the tail of sq; the kernel learns it in enter
	waiting bool   // a wait for events is outstanding
	moment  timespec
	limit   waitArgument // moment
}

// queue holds the indices of a queue, in memory shared with the kernel.
type queue struct {
	head, tail *atomic.Uint32
	mask       uint32
}

// New makes a ring. It fails where the kernel has no io_uring, forbids it, or is older than 6.15: a
// ring cannot wait for epoll there.
func New() (*Ring, error) {
	r := &Ring{fd: -1, moment: timespec{nanoseconds: int64(time.Millisecond)}}
	r.limit.timespec = uint64(uintptr(unsafe.Pointer(&r.moment)))
	if err := r.open(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Ring) open() error {
	p := parameters{flags: setupDisabled | setupSubmitAll | setupCoopTaskrun | setupSingleIssuer |
		setupDeferTaskrun | setupNoSQArray}
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, entries, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return fmt.Errorf("io_uring_setup: %w", errno)
	}
	r.fd = int(fd)
	if err := r.probe(); err != nil {
		return err
	}
	if err := r.share(&p); err != nil {
		return fmt.Errorf("memory of io_uring: %w", err)
	}
	return nil
}

// probe checks for the newest call that this package makes.
func (r *Ring) probe() error {
	var p probe
	if err := r.register(registerProbe, unsafe.Pointer(&p), len(p.calls)); err != nil {
		return fmt.Errorf("io_uring_register: %w", err)
	}
	if p.calls[callEpollWait].flags&callSupported == 0 {
		return fmt.Errorf("io_uring waits for epoll since Linux 6.15: %w", unix.EOPNOTSUPP)
	}
	return nil
}

func (r *Ring) register(what uintptr, arg unsafe.Pointer, n int) error {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(r.fd), what,
		uintptr(arg), uintptr(n), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// share maps the queues, whose places the kernel has chosen, and memory for buffers and events. The
// kernel writes to none of Go's memory.
func (r *Ring) share(p *parameters) error {
	size := int(p.cq.results) + int(p.cqEntries)*int(unsafe.Sizeof(result{}))
	both, err := r.mmap(r.fd, offsetQueues, size)
	if err != nil {
		return err
	}
	calls, err := r.mmap(r.fd, offsetCalls, int(p.sqEntries)*int(unsafe.Sizeof(call{})))
	if err != nil {
		return err
	}
	if r.buffers, err = r.mmap(-1, 0, Batch*BufferSize); err != nil {
		return err
	}
	if r.args, err = r.mmap(-1, 0, entries*ArgSize); err != nil {
		return err
	}
	events, err := r.mmap(-1, 0, Batch*int(unsafe.Sizeof(unix.EpollEvent{})))
	if err != nil {
		return err
	}
	at := func(offset uint32) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&both[offset])) }
	r.sq = queue{at(p.sq.head), at(p.sq.tail), p.sqEntries - 1}
	r.cq = queue{at(p.cq.head), at(p.cq.tail), p.cqEntries - 1}
	r.calls = unsafe.Slice((*call)(unsafe.Pointer(&calls[0])), p.sqEntries)
	r.results = unsafe.Slice((*result)(unsafe.Pointer(&both[p.cq.results])), p.cqEntries)
	r.events = unsafe.Slice((*unix.EpollEvent)(unsafe.Pointer(&events[0])), Batch)
	return nil
}

func (r *Ring) mmap(fd int, offset int64, size int) ([]byte, error) {
	flags := unix.MAP_SHARED
	if fd < 0 {
		flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	}
	b, err := unix.Mmap(fd, offset, size, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err == nil {
		r.regions = append(r.regions, b)
	}
	return b, err
}

// Begin gives the ring to the calling thread, to which the goroutine must be locked.
func (r *Ring) Begin() error {
	if err := r.register(registerEnable, nil, 0); err != nil {
		return fmt.Errorf("io_uring_register: %w", err)
	}
	return nil
}

// Close frees the ring. An outstanding wait ends.
func (r *Ring) Close() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
		r.fd = -1
	}
	for _, b := range r.regions {
		_ = unix.Munmap(b)
	}
	r.regions = nil
}

// Buffer returns buffer i.
func (r *Ring) Buffer(i int) []byte { return r.buffers[i*BufferSize : (i+1)*BufferSize] }

// Receive queues a receive from a socket into buffer i.
func (r *Ring) Receive(fd, i int) {
	c, _ := r.next()
	*c = call{
		call: callReceive, fd: int32(fd), flags: unix.MSG_DONTWAIT, tag: tag(Received, i),
		addr: address(&r.buffers[i*BufferSize]), length: BufferSize,
	}
}

// Send queues a send of the first n bytes of buffer i. It has a result only if fewer were sent.
func (r *Ring) Send(fd, i, n int) {
	c, _ := r.next()
	*c = call{
		call: callSend, entry: entrySkipSuccess, fd: int32(fd), tag: tag(Sent, i),
		flags: unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL | unix.MSG_WAITALL, // WAITALL: fewer bytes are a failure
		addr:  address(&r.buffers[i*BufferSize]), length: uint32(n),
	}
}

// address is for mapped memory, which does not move.
func address[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }

// SetOption queues setsockopt(2). It has no result.
func (r *Ring) SetOption(fd, level, name int, value []byte) {
	c, arg := r.next()
	*c = call{
		call: callCommand, entry: entrySkipSuccess, fd: int32(fd), tag: tag(Ignored, 0),
		offset: pair(commandSetOption, 0), addr: pair(level, name),
		more: uint32(copy(arg, value)), arg: address(&arg[0]),
	}
}

// Modify queues epoll_ctl(2) with EPOLL_CTL_MOD. It has no result.
func (r *Ring) Modify(epoll, fd int, ev unix.EpollEvent) {
	c, arg := r.next()
	copy(arg, unsafe.Slice((*byte)(unsafe.Pointer(&ev)), unsafe.Sizeof(ev)))
	*c = call{
		call: callEpollCtl, entry: entrySkipSuccess, fd: int32(epoll), tag: tag(Ignored, 0),
		offset: uint64(fd), addr: address(&arg[0]), length: unix.EPOLL_CTL_MOD,
	}
}

// CloseSocket queues close(2). It has no result.
func (r *Ring) CloseSocket(fd int) {
	c, _ := r.next()
	*c = call{call: callClose, entry: entrySkipSuccess, fd: int32(fd), tag: tag(Ignored, 0)}
}

// Tell queues a send of a message, of at most ArgSize bytes, to a socket's peer. It has no result.
func (r *Ring) Tell(fd int, message []byte) {
	c, arg := r.next()
	*c = call{
		call: callSend, entry: entrySkipSuccess, fd: int32(fd), tag: tag(Ignored, 0),
		flags: unix.MSG_DONTWAIT | unix.MSG_NOSIGNAL,
		addr:  address(&arg[0]), length: uint32(copy(arg, message)),
	}
}

// pair returns two 32-bit fields in the place of a 64-bit one.
func pair(a, b int) uint64 {
	p := [2]uint32{uint32(a), uint32(b)}
	return *(*uint64)(unsafe.Pointer(&p))
}

// next returns the next place in the submission queue, and memory for its argument. If the queue is
// full, it makes the queued calls first.
func (r *Ring) next() (*call, []byte) {
	if r.queued-r.sq.head.Load() == entries {
		_ = r.Submit() // the next Submit or Wait reports the error
	}
	i := int(r.queued & r.sq.mask)
	r.queued++
	return &r.calls[i], r.args[i*ArgSize : (i+1)*ArgSize]
}

// Submit makes the queued calls, in order. After an error the ring is unusable.
func (r *Ring) Submit() error {
	for r.sq.head.Load() != r.queued {
		if err := r.enter(0, true); err != nil {
			return err
		}
	}
	return nil
}

// Wait makes the queued calls and waits for a result; events of an epoll descriptor are one. It
// first waits for a millisecond without notifying Go's scheduler (package raw). If block is not
// set, it does not wait. After an error the ring is unusable.
func (r *Ring) Wait(epoll int, block bool) error {
	if !r.waiting {
		r.waiting = true
		c, _ := r.next()
		*c = call{
			call: callEpollWait, fd: int32(epoll), tag: tag(Events, 0),
			addr: address(&r.events[0]), length: Batch,
		}
	}
	least := uint32(0)
	if block {
		least = 1
	}
	for brief := true; ; brief = false {
		if err := r.enter(least, brief); err != nil {
			return err
		}
		if r.sq.head.Load() == r.queued && (!block || r.cq.head.Load() != r.cq.tail.Load()) {
			return nil
		}
	}
}

// enter shows the kernel what is queued and waits for results, for a millisecond at most if brief
// is set. It may return early: after a signal, or when the kernel had no memory for all calls.
func (r *Ring) enter(least uint32, brief bool) error {
	r.sq.tail.Store(r.queued)
	n := r.queued - r.sq.head.Load()
	var errno unix.Errno
	if brief {
		errno = raw.EnterRing(r.fd, n, least, enterGetEvents|enterExtArg,
			unsafe.Pointer(&r.limit), unsafe.Sizeof(r.limit))
	} else {
		raw.Calls.Add(1)
		_, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), uintptr(n),
			uintptr(least), enterGetEvents, 0, 0)
	}
	switch errno {
	case 0, unix.EINTR, unix.ETIME:
		return nil
	case unix.EAGAIN: // no memory for a single call
		time.Sleep(time.Millisecond)
		return nil
	}
	return fmt.Errorf("io_uring_enter: %w", errno)
}

// Result is the result of a call: a number of bytes or events, or an error.
type Result struct {
	Kind   Kind
	Buffer int
	N      int
	Err    unix.Errno
}

// Kind distinguishes results.
type Kind uint32

const (
	None     Kind = iota
	Events        // N events of the epoll descriptor
	Received      // N bytes in the buffer
	Sent          // N bytes, fewer than wanted
	Ignored       // a call without a result has failed
)

func tag(k Kind, buffer int) uint64 { return uint64(k)<<32 | uint64(buffer) }

// Next returns the next result, one of kind None if there is none.
func (r *Ring) Next() Result {
	head := r.cq.head.Load()
	if head == r.cq.tail.Load() {
		return Result{}
	}
	c := r.results[head&r.cq.mask]
	r.cq.head.Store(head + 1)
	out := Result{Kind: Kind(c.tag >> 32), Buffer: int(uint32(c.tag))}
	if c.n < 0 {
		out.Err = unix.Errno(-c.n)
	} else {
		out.N = int(c.n)
	}
	if out.Kind == Events {
		r.waiting = false
	}
	return out
}

// Events returns the first n events of a result, until the next Wait.
func (r *Ring) Events(n int) []unix.EpollEvent { return r.events[:n] }
