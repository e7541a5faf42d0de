package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link"
	"github.com/toe-project/toe/link/vhostuser"
	"github.com/toe-project/toe/link/vring"
)

// A request (virtio 1.2 section 5.2.6):
//
//	0       4          8        16
//	+-------+----------+--------+------- - -      +--------+
//	| type  | reserved | sector | data            | status |   the device writes status
//	+-------+----------+--------+------- - -      +--------+
//
// The borders between header, data and status need not be those of segments.
const headerLen = 16

// Types of a request.
const (
	typeIn          = 0
	typeOut         = 1
	typeFlush       = 4
	typeGetID       = 8
	typeDiscard     = 11
	typeWriteZeroes = 13
)

// status is the last byte of a request.
type status byte

const (
	ok          status = 0
	ioError     status = 1
	unsupported status = 2
)

// idLen is the length of the answer to GET_ID in bytes.
const idLen = 20

var (
	errNoHeader = fmt.Errorf("%w: request shorter than its header", vring.ErrChain)
	errNoStatus = fmt.Errorf("%w: request without a place for its status", vring.ErrChain)
	errRange    = errors.New("range outside the disk")
	errReadOnly = errors.New("the disk is read-only")
	errFlush    = errors.New("an earlier flush failed")
)

// device executes requests.
type device struct {
	file     File
	id       string
	size     int64 // bytes
	readOnly bool
	through  bool // the driver sends no flush: each write is flushed
	ctr      *counters
	worker   link.Worker
	errors   errorLog
}

// Offer applies the features of the driver. A driver without FLUSH expects that what is written is
// stable (virtio 1.2 section 5.2.6.2).
func (d *device) Offer(features uint64) { d.through = features&vhostuser.BlkFlush == 0 }

// Close closes the file.
func (d *device) Close() {
	d.file.Close()
	d.ctr.memory.Close()
}

// Serve executes one request. It reads the header once and checks the copy. The status is written
// last, whatever else the segments overlap.
func (d *device) Serve(read, write []unix.Iovec) (int, error) {
	var h [headerLen]byte
	read, have := take(read, h[:])
	if have < headerLen {
		return 0, errNoHeader
	}
	if len(write) == 0 {
		return 0, errNoStatus
	}
	last := &write[len(write)-1]
	place := (*byte)(unsafe.Add(unsafe.Pointer(last.Base), last.Len-1)) // no segment is empty
	last.SetLen(int(last.Len) - 1)
	if last.Len == 0 {
		write = write[:len(write)-1]
	}
	s, n := d.do(binary.LittleEndian.Uint32(h[:]), binary.LittleEndian.Uint64(h[8:]), read, write)
	*place = byte(s)
	return n + 1, nil
}

// do executes a request and returns the number of bytes of data written to the card.
func (d *device) do(kind uint32, sector uint64, read, write []unix.Iovec) (status, int) {
	switch kind {
	case typeIn:
		n := length(write)
		return d.in(sector, n, write), n
	case typeOut:
		return d.out(sector, read), 0
	case typeFlush:
		return d.flush(), 0
	case typeGetID:
		return ok, put(write, append([]byte(d.id), make([]byte, idLen)...)[:idLen])
	case typeDiscard, typeWriteZeroes:
		return d.ranges(kind, read), 0
	}
	d.ctr.add(&d.ctr.unsupported, 1)
	return unsupported, 0
}

func (d *device) in(sector uint64, n int, write []unix.Iovec) status {
	at, err := d.place(sector, n)
	if err == nil {
		err = d.file.ReadV(write, at)
	}
	d.ctr.add(&d.ctr.reads, 1)
	d.ctr.add(&d.ctr.readBytes, uint64(n))
	return d.outcome("read", at, n, err)
}

func (d *device) out(sector uint64, read []unix.Iovec) status {
	n := length(read)
	at, err := d.place(sector, n)
	if err == nil {
		err = d.writable()
	}
	if err == nil {
		err = d.file.WriteV(read, at)
	}
	d.ctr.add(&d.ctr.writes, 1)
	d.ctr.add(&d.ctr.writtenBytes, uint64(n))
	if s := d.outcome("write", at, n, err); s != ok || !d.through {
		return s
	}
	return d.flush()
}

// flush executes a flush. After one has failed, all others fail, and so do writes: the kernel reports
// such an error once and then takes the lost pages for clean, so a later fdatasync would succeed
// although data is missing.
func (d *device) flush() status {
	d.ctr.add(&d.ctr.flushes, 1)
	if d.readOnly {
		return ok
	}
	if d.ctr.load(&d.ctr.lost) != 0 {
		return d.outcome("flush", 0, 0, errFlush)
	}
	d.worker.Call()
	err := d.file.Sync()
	if err != nil {
		d.ctr.add(&d.ctr.lost, 1)
	}
	return d.outcome("flush", 0, 0, err)
}

// writable returns the reason why nothing may be written.
func (d *device) writable() error {
	if d.readOnly {
		return errReadOnly
	}
	if d.ctr.load(&d.ctr.lost) != 0 {
		return errFlush
	}
	return nil
}

// place checks a range of whole sectors and returns its offset.
func (d *device) place(sector uint64, n int) (int64, error) {
	sectors := uint64(d.size) / SectorSize
	if n%SectorSize != 0 || sector > sectors || uint64(n)/SectorSize > sectors-sector {
		return 0, fmt.Errorf("%w: %d bytes at sector %d of %d", errRange, n, sector, sectors)
	}
	return int64(sector) * SectorSize, nil
}

// A range of DISCARD and WRITE_ZEROES (section 5.2.6):
//
//	0        8       12      16
//	+--------+-------+-------+
//	| sector | count | flags |   flag 1, unmap: the range may be freed
//	+--------+-------+-------+
const rangeLen = 16

func (d *device) ranges(kind uint32, read []unix.Iovec) status {
	const unmap = 1
	var list [discardRanges * rangeLen]byte
	n := length(read)
	what, count := "discard", &d.ctr.discards
	if kind == typeWriteZeroes {
		what, count = "write zeroes", &d.ctr.zeroes
	}
	d.ctr.add(count, 1)
	if err := d.writable(); err != nil {
		return d.outcome(what, 0, 0, err)
	}
	if n == 0 || n%rangeLen != 0 || n > len(list) {
		return d.outcome(what, 0, 0, fmt.Errorf("%w: a list of %d bytes", errRange, n))
	}
	take(read, list[:n])
	for r := list[:n]; len(r) > 0; r = r[rangeLen:] {
		sector, sectors := binary.LittleEndian.Uint64(r), binary.LittleEndian.Uint32(r[8:])
		flags := binary.LittleEndian.Uint32(r[12:])
		if flags&^unmap != 0 || flags != 0 && kind == typeDiscard {
			return unsupported // section 5.2.6.2
		}
		at, err := d.place(sector, int(sectors)*SectorSize)
		if err == nil && sectors > discardSector {
			err = fmt.Errorf("%w: %d sectors, want at most %d", errRange, sectors, discardSector)
		}
		if err == nil && sectors > 0 {
			if kind == typeDiscard {
				err = d.file.Discard(at, int64(sectors)*SectorSize)
			} else {
				err = d.file.Zero(at, int64(sectors)*SectorSize, flags == unmap)
			}
		}
		if errors.Is(err, unix.EOPNOTSUPP) {
			return unsupported // the host's file system has no holes: the driver writes zeroes
		}
		if s := d.outcome(what, at, int(sectors)*SectorSize, err); s != ok {
			return s
		}
	}
	if d.through {
		return d.flush()
	}
	return ok
}

// outcome is the status for an error, which it counts and reports. What the card may cause at will
// is counted only.
func (d *device) outcome(what string, at int64, n int, err error) status {
	if err == nil {
		return ok
	}
	d.ctr.add(&d.ctr.errors, 1)
	switch {
	case errors.Is(err, errRange), errors.Is(err, errReadOnly), errors.Is(err, unix.EFAULT):
	case what == "flush":
		d.errors.report(d.worker, fmt.Errorf("flush: %w", err))
	default:
		d.errors.report(d.worker, fmt.Errorf("%s of %d bytes at %d: %w", what, n, at, err))
	}
	return ioError
}

// length is the number of bytes in the segments, at most mostBytes.
func length(iov []unix.Iovec) (n int) {
	for i := range iov {
		n += int(iov[i].Len)
	}
	return n
}

// take copies the first bytes to b and returns the rest of the segments and the number copied.
func take(iov []unix.Iovec, b []byte) ([]unix.Iovec, int) {
	n := 0
	for i := range iov {
		n += copy(b[n:], unsafe.Slice(iov[i].Base, iov[i].Len))
		if n == len(b) {
			break
		}
	}
	return advance(iov, n), n
}

// put copies b to the segments and returns the number of bytes copied.
func put(iov []unix.Iovec, b []byte) (n int) {
	for i := range iov {
		n += copy(unsafe.Slice(iov[i].Base, iov[i].Len), b[n:])
	}
	return n
}
