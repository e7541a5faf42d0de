package flash

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// ErrInvalid means that the partition table of a flash is damaged or is not that of a flash.
// `toe reset --flash` writes the flash again.
var ErrInvalid = errors.New("not a valid flash")

// Partition is a piece of a flash. It lies within the file and overlaps no other.
type Partition struct {
	Name   string
	Offset int64 // bytes
	Size   int64 // bytes
}

// Reader returns the partition of f.
func (p Partition) Reader(f io.ReaderAt) *io.SectionReader {
	return io.NewSectionReader(f, p.Offset, p.Size)
}

// Table is the partition table of a flash.
type Table []Partition

// Find returns the partition called name. A table that Read returned has all of them.
func (t Table) Find(name string) Partition {
	for _, p := range t {
		if p.Name == name {
			return p
		}
	}
	return Partition{}
}

// Create makes an empty flash in f, an empty file: the partition tables, and holes for everything
// else. The partitions have no content.
func Create(f *os.File, s Sizes) error {
	if err := s.check(); err != nil {
		return err
	}
	size := s.Total()
	if err := f.Truncate(size); err != nil {
		return err
	}
	t := &gpt.Table{LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true}
	at := int64(align)
	for i, r := range s.rows() {
		t.Partitions = append(t.Partitions, &gpt.Partition{
			Index: i + 1, Start: uint64(at / sector), End: uint64((at+r.size)/sector - 1), Type: r.kind, Name: r.name,
		})
		at += r.size
	}
	if err := t.Write(f, size); err != nil {
		return fmt.Errorf("partition table of %s: %w", f.Name(), err)
	}
	return f.Sync()
}

// Read reads the partition table of a flash of size bytes, which is untrusted. A damaged first
// table is replaced by the second one. Errors: ErrInvalid.
func Read(f io.ReaderAt, size int64) (Table, error) {
	copied, err := copyTables(f, size)
	if err != nil {
		return nil, err
	}
	got, err := gpt.Read(copied, sector, sector)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	var t Table
	for _, p := range got.Partitions {
		if p.Start > p.End || p.End >= uint64(size/sector) {
			return nil, fmt.Errorf("%w: partition %.40q has sectors %d to %d, the file has %d", ErrInvalid, p.Name, p.Start, p.End, size/sector)
		}
		t = append(t, Partition{p.Name, int64(p.Start) * sector, int64(p.End-p.Start+1) * sector})
	}
	return t, t.check()
}

func (t Table) check() error {
	for _, r := range (Sizes{}).rows() {
		n := 0
		for _, p := range t {
			if p.Name == r.name {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%w: %d partitions are named %s, want one", ErrInvalid, n, r.name)
		}
	}
	if env := t.Find(EnvName); env.Size < envSpan {
		return fmt.Errorf("%w: partition %s has %d bytes, want at least %d", ErrInvalid, EnvName, env.Size, envSpan)
	}
	sorted := slices.SortedFunc(slices.Values(t), func(a, b Partition) int { return int(max(min(a.Offset-b.Offset, 1), -1)) })
	end := int64(headSize)
	for _, p := range sorted {
		if p.Offset < end {
			return fmt.Errorf("%w: partition %.40q overlaps what is before it", ErrInvalid, p.Name)
		}
		end = p.Offset + p.Size
	}
	return nil
}

// Where a GPT keeps its tables, with 128 entries of 128 bytes (UEFI 2.10, section 5.3).
const (
	entries   = 128
	entrySize = 128
	arraySize = entries * entrySize
	headSize  = 2*sector + arraySize // bytes: protective MBR, header, array
	tailSize  = arraySize + sector   // bytes: array, header
)

// tables is a copy of the partition tables: the only thing that the library reads, and the size of
// which it is told.
type tables struct {
	head, tail []byte
	size       int64
}

// copyTables copies the tables and voids a header that differs from ours in shape: the library
// allocates what a header says.
func copyTables(f io.ReaderAt, size int64) (*tables, error) {
	if size < headSize+tailSize || size%sector != 0 {
		return nil, fmt.Errorf("%w: %d bytes long", ErrInvalid, size)
	}
	c := &tables{head: make([]byte, headSize), tail: make([]byte, tailSize), size: size}
	for _, part := range []struct {
		b      []byte
		at     int64
		header int   // offset in b
		array  int64 // the sector of the array that belongs to it
	}{{c.head, 0, sector, 2}, {c.tail, size - tailSize, arraySize, (size - tailSize) / sector}} {
		if _, err := f.ReadAt(part.b, part.at); err != nil && err != io.EOF {
			return nil, fmt.Errorf("partition table: %w", err)
		}
		h := part.b[part.header : part.header+sector]
		if binary.LittleEndian.Uint64(h[72:]) != uint64(part.array) || binary.LittleEndian.Uint32(h[80:]) != entries ||
			binary.LittleEndian.Uint32(h[84:]) != entrySize {
			clear(h)
		}
	}
	return c, nil
}

// ReadAt reads from the copies.
func (t *tables) ReadAt(b []byte, off int64) (int, error) {
	switch tail := t.size - tailSize; {
	case off >= 0 && off < headSize:
		return full(b, copy(b, t.head[off:]))
	case off >= tail && off < t.size:
		return full(b, copy(b, t.tail[off-tail:]))
	}
	return 0, fmt.Errorf("offset %d: %w", off, fs.ErrInvalid)
}

func full(b []byte, n int) (int, error) {
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// Seek tells the size.
func (t *tables) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekEnd || offset != 0 {
		return 0, fs.ErrInvalid
	}
	return t.size, nil
}

func (t *tables) Stat() (fs.FileInfo, error) { return nil, fs.ErrInvalid }
func (t *tables) Read([]byte) (int, error)   { return 0, fs.ErrInvalid }
func (t *tables) Close() error               { return nil }
