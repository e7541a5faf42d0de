package disktest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/disk"
)

// Recorder stands between a disk's worker and its file and remembers what was written since the last
// flush. So a test can have the power fail: Cut makes the disk as it may be then, with a random part
// of those writes lost.
//
//	r, err := disktest.Record(image, t.TempDir())
//	opts := disk.Options{Launch: disktest.Launch(r.Wrap)}
//	… a card writes to the disk; the test kills its machine …
//	loss, err := r.Cut(after, rng)   // the keeper may still run
//
// A flush costs no fdatasync, since the host itself does not fail.
type Recorder struct {
	mu     sync.Mutex // guards what follows
	stable *os.File   // the disk at the last flush
	log    *os.File   // the data of all writes since then
	end    int64      // of the log
	writes []write
}

// write is one write since the last flush.
type write struct {
	offset, length int64
	log            int64 // offset in the log; -1 for zeroes
}

// Record makes a recorder for an image that is not in use. It keeps two unlinked files in dir: a copy
// of the image, as sparse as that, and what was not flushed.
func Record(image, dir string) (*Recorder, error) {
	r := &Recorder{}
	from, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	for _, f := range []**os.File{&r.stable, &r.log} {
		if *f, err = os.CreateTemp(dir, "recorder"); err != nil {
			r.Close()
			return nil, err
		}
		os.Remove((*f).Name())
	}
	if err := copySparse(r.stable, from); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Close releases the recorder's files.
func (r *Recorder) Close() {
	for _, f := range []*os.File{r.stable, r.log} {
		if f != nil {
			f.Close()
		}
	}
}

// Wrap is for Launch. Each worker of the disk gets a wrapper of its own.
func (r *Recorder) Wrap(f disk.File) disk.File { return &recorded{File: f, r: r} }

// sink is what a recorded file tells of its writes and flushes.
type sink interface {
	note(offset, length int64, data []byte) error
	flush() error
}

// Unflushed returns the number of writes since the last flush.
func (r *Recorder) Unflushed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.writes)
}

// Loss is what a power failure took.
type Loss struct {
	Writes int // since the last flush
	Lost   int // of them, wholly
	Torn   int // of them, some sectors
}

func (l Loss) String() string {
	return fmt.Sprintf("%d writes since the last flush, %d lost, %d torn", l.Writes, l.Lost, l.Torn)
}

// Cut writes the disk to the file dst as it may be after the power has failed now: all that was
// flushed, and of each later write all sectors, some, or none. Sectors are written whole, and in any
// order. How many writes are lost is random too, from none to all. The recorder goes on.
func (r *Recorder) Cut(dst string, rng *rand.Rand) (Loss, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	to, err := os.Create(dst)
	if err != nil {
		return Loss{}, err
	}
	defer to.Close()
	if err := copySparse(to, r.stable); err != nil {
		return Loss{}, err
	}
	loss, err := lose(to, r.log, r.writes, disk.SectorSize, rng)
	return loss, errors.Join(err, to.Close())
}

// lose applies what a power failure leaves of writes, whose data is in log. Blocks of so many bytes are
// written whole.
func lose(to, log *os.File, writes []write, block int64, rng *rand.Rand) (Loss, error) {
	loss := Loss{Writes: len(writes)}
	lost, torn := rng.Float64(), rng.Float64()*rng.Float64()
	switch rng.IntN(8) { // the ends are as likely as all that is between
	case 0:
		lost = 1
	case 1:
		lost, torn = 0, 0
	}
	for _, w := range writes {
		var err error
		switch {
		case rng.Float64() < lost:
			loss.Lost++
			continue
		case w.length > block && rng.Float64() < torn:
			loss.Torn++
			err = w.applySome(to, log, block, rng)
		default:
			err = w.apply(to, log)
		}
		if err != nil {
			return loss, err
		}
	}
	return loss, nil
}

// applySome applies a random half of a write's blocks.
func (w write) applySome(to, log *os.File, block int64, rng *rand.Rand) error {
	for at := int64(0); at < w.length; at += block {
		if rng.IntN(2) == 0 {
			continue
		}
		part := write{offset: w.offset + at, length: min(block, w.length-at), log: w.log}
		if w.log >= 0 {
			part.log += at
		}
		if err := part.apply(to, log); err != nil {
			return err
		}
	}
	return nil
}

func (w write) apply(to, log *os.File) error {
	if w.log < 0 {
		const hole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		return unix.Fallocate(int(to.Fd()), hole, w.offset, w.length)
	}
	b := make([]byte, w.length)
	if _, err := log.ReadAt(b, w.log); err != nil {
		return err
	}
	_, err := to.WriteAt(b, w.offset)
	return err
}

// note records a write that the file has taken; data is nil for zeroes.
func (r *Recorder) note(offset, length int64, data []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := write{offset, length, -1}
	if data != nil {
		if _, err := r.log.WriteAt(data, r.end); err != nil {
			return err
		}
		w.log = r.end
		r.end += length
	}
	r.writes = append(r.writes, w)
	return nil
}

func (r *Recorder) flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, w := range r.writes {
		if err := w.apply(r.stable, r.log); err != nil {
			return err
		}
	}
	r.writes, r.end = nil, 0
	return nil
}

// recorded is the wrapper.
type recorded struct {
	disk.File
	r sink
}

// WriteV writes a copy: the card may change its memory meanwhile.
func (f *recorded) WriteV(iov []unix.Iovec, offset int64) error {
	var b []byte
	for _, v := range iov {
		b = append(b, unsafe.Slice(v.Base, v.Len)...)
	}
	if len(b) == 0 {
		return nil
	}
	one := []unix.Iovec{{Base: &b[0]}}
	one[0].SetLen(len(b))
	err := f.File.WriteV(one, offset)
	runtime.KeepAlive(b)
	if err != nil {
		return err
	}
	return f.r.note(offset, int64(len(b)), b)
}

func (f *recorded) Discard(offset, length int64) error {
	return errors.Join(f.File.Discard(offset, length), f.r.note(offset, length, nil))
}

func (f *recorded) Zero(offset, length int64, free bool) error {
	return errors.Join(f.File.Zero(offset, length, free), f.r.note(offset, length, nil))
}

func (f *recorded) Sync() error { return f.r.flush() }

// copySparse copies a file into an empty one and leaves out its holes.
func copySparse(to, from *os.File) error {
	st, err := from.Stat()
	if err != nil {
		return err
	}
	_, err = copyPart(to, from, 0, st.Size())
	return err
}

// CopyPart copies a piece of a file, such as a partition, to the file dst and leaves out its holes. It
// reports whether there was anything but holes.
func CopyPart(dst string, from *os.File, offset, size int64) (bool, error) {
	to, err := os.Create(dst)
	if err != nil {
		return false, err
	}
	some, err := copyPart(to, from, offset, size)
	return some, errors.Join(err, to.Close())
}

func copyPart(to, from *os.File, offset, size int64) (some bool, err error) {
	if err := to.Truncate(size); err != nil {
		return false, err
	}
	b := make([]byte, 1<<20)
	for at := offset; ; {
		at, err = unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if err == unix.ENXIO || err == nil && at >= offset+size {
			return some, nil // a hole until the end
		}
		if err != nil {
			return some, fmt.Errorf("SEEK_DATA: %w", err)
		}
		end, err := unix.Seek(int(from.Fd()), at, unix.SEEK_HOLE)
		if err != nil {
			return some, fmt.Errorf("SEEK_HOLE: %w", err)
		}
		some = true
		for end = min(end, offset+size); at < end; {
			n, err := from.ReadAt(b[:min(int64(len(b)), end-at)], at)
			if n == 0 {
				return some, err
			}
			if _, err := to.WriteAt(b[:n], at-offset); err != nil {
				return some, err
			}
			at += int64(n)
		}
	}
}
