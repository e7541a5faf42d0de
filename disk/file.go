package disk

import (
	"io"
	"unsafe"

	"golang.org/x/sys/unix"
)

// File is the storage of a disk. Offsets and lengths are bytes within the disk's size. One goroutine
// uses it.
type File interface {
	// ReadV and WriteV move the bytes of all segments, or fail. They may change the segments.
	ReadV(iov []unix.Iovec, offset int64) error
	WriteV(iov []unix.Iovec, offset int64) error
	// Sync returns when all that was written before is on stable storage.
	Sync() error
	// Discard frees a range, which then reads as zeroes or as before.
	Discard(offset, length int64) error
	// Zero writes zeroes. It keeps the range allocated unless free is set.
	Zero(offset, length int64, free bool) error
	Close() error
}

// fd is a file of the host.
type fd int

func (f fd) ReadV(iov []unix.Iovec, offset int64) error {
	return f.move(unix.SYS_PREADV, iov, offset)
}

func (f fd) WriteV(iov []unix.Iovec, offset int64) error {
	return f.move(unix.SYS_PWRITEV, iov, offset)
}

// move is preadv(2) or pwritev(2), repeated until all bytes have moved.
func (f fd) move(call uintptr, iov []unix.Iovec, offset int64) error {
	for len(iov) > 0 {
		// The offset is passed in two words, of which a 64-bit kernel uses the first.
		n, _, e := unix.RawSyscall6(call, uintptr(f), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)),
			uintptr(offset), uintptr(uint64(offset)>>32), 0)
		switch {
		case e == unix.EINTR:
			continue
		case e != 0:
			return e
		case n == 0:
			return io.ErrUnexpectedEOF // the file was cut short
		}
		offset += int64(n)
		iov = advance(iov, int(n))
	}
	return nil
}

// advance removes the first n bytes.
func advance(iov []unix.Iovec, n int) []unix.Iovec {
	for len(iov) > 0 && n >= int(iov[0].Len) {
		n -= int(iov[0].Len)
		iov = iov[1:]
	}
	if n > 0 && len(iov) > 0 {
		iov[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(iov[0].Base), n))
		iov[0].SetLen(int(iov[0].Len) - n)
	}
	return iov
}

func (f fd) Sync() error {
	for {
		if err := unix.Fdatasync(int(f)); err != unix.EINTR {
			return err
		}
	}
}

func (f fd) Discard(offset, length int64) error {
	return f.allocate(unix.FALLOC_FL_PUNCH_HOLE, offset, length)
}

func (f fd) Zero(offset, length int64, free bool) error {
	if free {
		return f.Discard(offset, length)
	}
	err := f.allocate(unix.FALLOC_FL_ZERO_RANGE, offset, length)
	if err == unix.EOPNOTSUPP { // such as tmpfs; a hole is zeroes too
		err = f.Discard(offset, length)
	}
	return err
}

func (f fd) allocate(mode uint32, offset, length int64) error {
	for {
		err := unix.Fallocate(int(f), mode|unix.FALLOC_FL_KEEP_SIZE, offset, length)
		if err != unix.EINTR {
			return err
		}
	}
}

func (f fd) Close() error { return unix.Close(int(f)) }
