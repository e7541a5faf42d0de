// Package disk is the back end of a card's disk: a virtio-blk device (virtio 1.2, section 5.2) over
// a file of the host.
//
// It is made of the same two processes as a network device (package link). The keeper, in the
// supervisor's process, holds the vhost-user conversation and the file. The worker, a confined
// process of its own, has the card's memory and the file passed in and executes requests. A worker
// that dies is replaced, and the card does not notice.
//
// The card's kernel uses a write-back cache, since the device offers VIRTIO_BLK_F_FLUSH and not
// VIRTIO_BLK_F_CONFIG_WCE (section 5.2.5.2): it sends a flush for each fsync of a program. The worker
// executes a flush as fdatasync(2). What the card has flushed is on the host's disk.
package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/vhostuser"
)

// SectorSize is the unit of a disk's size and of requests, in bytes (virtio 1.2 section 5.2.2).
const SectorSize = 512

// Limits of one request. A driver that keeps them never exceeds mostBytes.
const (
	mostSegments  = 254      // of data; a ring of 256 entries also holds header and status
	segmentBytes  = 32 << 10 // of one segment
	mostBytes     = mostSegments*segmentBytes + headerLen + 1
	discardSector = 1 << 21 // sectors of one discard: 1 GiB
	discardRanges = 16
)

// Disk describes one disk of a card to its back end.
type Disk struct {
	Name   string // for messages, and the serial number on the card (20 bytes of it)
	Socket string // path of the vhost-user socket
	// File has the content. Its size is that of the disk, a multiple of SectorSize. NewKeeper takes
	// ownership of it.
	File     *os.File
	ReadOnly bool // File may be open for reading only
}

// ErrInUse reports that another process has a disk's file open as a disk.
var ErrInUse = errors.New("in use by another card or program")

// Open opens the file of a disk and locks it: with flock(2), exclusively or, for a read-only disk,
// shared with others that only read. The lock belongs to the open file. It lasts until the keeper
// and its worker are gone. The error is ErrInUse if the file is locked.
func Open(path string, readOnly bool) (*os.File, error) {
	how, flags := unix.LOCK_EX, os.O_RDWR
	if readOnly {
		how, flags = unix.LOCK_SH, os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, fmt.Errorf("disk %s: %w", path, err)
	}
	return f, nil
}

// size returns the size of the disk in bytes.
func (d *Disk) size() (int64, error) {
	if d.File == nil {
		return 0, fmt.Errorf("disk %s: no file", d.Name)
	}
	st, err := d.File.Stat()
	if err != nil {
		return 0, fmt.Errorf("disk %s: %w", d.Name, err)
	}
	if m := st.Mode(); !m.IsRegular() && m.Type() != os.ModeDevice {
		return 0, fmt.Errorf("disk %s: %s has mode %v, want a file or a block device", d.Name, d.File.Name(), m)
	}
	n, err := d.File.Seek(0, io.SeekEnd) // a block device has no size in Stat
	if err != nil {
		return 0, fmt.Errorf("disk %s: %w", d.Name, err)
	}
	if n < SectorSize || n%SectorSize != 0 {
		return 0, fmt.Errorf("disk %s: %s has %d bytes, want a multiple of %d", d.Name, d.File.Name(), n, SectorSize)
	}
	return n, nil
}

// features returns the bits to offer. CONFIG_WCE is left out: with it Linux takes the device for
// write-through until told otherwise, and sends no flush.
func features(readOnly bool) uint64 {
	f := uint64(vhostuser.Version1 | vhostuser.RingIndirect | vhostuser.RingEventIdx |
		vhostuser.BlkSizeMax | vhostuser.BlkSegMax | vhostuser.BlkSize | vhostuser.BlkTopology | vhostuser.BlkFlush)
	if readOnly {
		return f | vhostuser.BlkReadOnly
	}
	return f | vhostuser.BlkDiscard | vhostuser.BlkWriteZeroes
}

// config is struct virtio_blk_config, virtio 1.2 section 5.2.4, at these offsets:
//
//	 0  capacity (8)     8  size_max (4)     12  seg_max (4)       16  geometry (4)
//	20  blk_size (4)    24  topology (8)     32  writeback (1)     34  num_queues (2)
//	36  max_discard_sectors (4)              40  max_discard_seg (4)
//	44  discard_sector_alignment (4)         48  max_write_zeroes_sectors (4)
//	52  max_write_zeroes_seg (4)             56  write_zeroes_may_unmap (1)
func config(size int64) []byte {
	b := make([]byte, 60)
	u32 := binary.LittleEndian.PutUint32
	binary.LittleEndian.PutUint64(b, uint64(size/SectorSize))
	u32(b[8:], segmentBytes)
	u32(b[12:], mostSegments)
	u32(b[20:], SectorSize)
	b[24] = 3                                // log2 of logical blocks in a physical one: 4096 bytes, the host's page
	binary.LittleEndian.PutUint16(b[26:], 8) // suggested least I/O, in logical blocks
	binary.LittleEndian.PutUint16(b[34:], 1)
	u32(b[36:], discardSector)
	u32(b[40:], discardRanges)
	u32(b[44:], 8)
	u32(b[48:], discardSector)
	u32(b[52:], discardRanges)
	b[56] = 1
	return b
}
