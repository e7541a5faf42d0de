package disktest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"

	"github.com/toe-project/toe/disk"
)

// Tracer is a Recorder that forgets nothing. It stands between a disk's worker and its file and keeps
// every write and every flush in a folder, so that Trace can have the power fail at any moment of what
// has happened. The process with the worker may be killed meanwhile: what it has told is in the files.
type Tracer struct {
	mu         sync.Mutex // guards what follows
	log, index *os.File
	end        int64 // of the log
}

// The files of a trace. An entry of the index has three numbers: offset, length, and the offset in the
// log or -1 for zeroes. That of a flush has length 0.
const (
	baseFile  = "base"
	logFile   = "log"
	indexFile = "index"
	entrySize = 3 * 8 // bytes
)

// NewTracer copies an image that is not in use to dir and begins a trace there.
func NewTracer(image, dir string) (*Tracer, error) {
	from, err := os.Open(image)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	base, err := os.Create(filepath.Join(dir, baseFile))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(copySparse(base, from), base.Close()); err != nil {
		return nil, err
	}
	t := &Tracer{}
	if t.log, err = os.Create(filepath.Join(dir, logFile)); err != nil {
		return nil, err
	}
	t.index, err = os.Create(filepath.Join(dir, indexFile))
	return t, err
}

// Wrap is for Launch.
func (t *Tracer) Wrap(f disk.File) disk.File { return &recorded{File: f, r: t} }

func (t *Tracer) note(offset, length int64, data []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := int64(-1)
	if data != nil {
		if _, err := t.log.WriteAt(data, t.end); err != nil {
			return err
		}
		at = t.end
		t.end += length
	}
	return t.enter(offset, length, at)
}

func (t *Tracer) flush() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.enter(0, 0, 0)
}

func (t *Tracer) enter(numbers ...int64) error {
	b := make([]byte, 0, entrySize)
	for _, n := range numbers {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	_, err := t.index.Write(b)
	return err
}

// Trace is what a Tracer has kept.
type Trace struct {
	// Block is what the disk writes whole, in bytes; OpenTrace sets disk.SectorSize.
	Block int64

	base, log *os.File
	writes    []write // a flush has length 0
	stable    *os.File
	at        int // stable has all writes before this one
}

// OpenTrace opens the trace in dir. It keeps a copy of the disk there.
func OpenTrace(dir string) (*Trace, error) {
	t := &Trace{Block: disk.SectorSize}
	var err error
	for _, f := range []struct {
		to   **os.File
		name string
	}{{&t.base, baseFile}, {&t.log, logFile}} {
		if *f.to, err = os.Open(filepath.Join(dir, f.name)); err != nil {
			return nil, errors.Join(err, t.Close())
		}
	}
	index, err := os.ReadFile(filepath.Join(dir, indexFile))
	if err == nil {
		t.stable, err = os.CreateTemp(dir, "stable")
	}
	if err == nil {
		err = errors.Join(os.Remove(t.stable.Name()), copySparse(t.stable, t.base))
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	for len(index) >= entrySize {
		n := func(i int) int64 { return int64(binary.LittleEndian.Uint64(index[8*i:])) }
		t.writes = append(t.writes, write{n(0), n(1), n(2)})
		index = index[entrySize:]
	}
	return t, nil
}

// Close releases the trace's files.
func (t *Trace) Close() error {
	var errs []error
	for _, f := range []*os.File{t.base, t.log, t.stable} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Len is the number of writes and flushes.
func (t *Trace) Len() int { return len(t.writes) }

// Touching returns the numbers of the writes to a piece of the disk, in bytes.
func (t *Trace) Touching(offset, length int64) []int {
	var out []int
	for i, w := range t.writes {
		if w.length > 0 && w.offset < offset+length && offset < w.offset+w.length {
			out = append(out, i)
		}
	}
	return out
}

// CutAt is Recorder.Cut after the first n writes and flushes. To call it with n in rising order is
// cheap.
func (t *Trace) CutAt(n int, dst string, rng *rand.Rand) (Loss, error) {
	if n < 0 || n > len(t.writes) {
		return Loss{}, fmt.Errorf("cut after %d of %d requests", n, len(t.writes))
	}
	flushed := 0 // all before it is on the disk
	for i := n - 1; i >= 0 && flushed == 0; i-- {
		if t.writes[i].length == 0 {
			flushed = i
		}
	}
	if err := t.advance(flushed); err != nil {
		return Loss{}, err
	}
	to, err := os.Create(dst)
	if err != nil {
		return Loss{}, err
	}
	defer to.Close()
	if err := copySparse(to, t.stable); err != nil {
		return Loss{}, err
	}
	var since []write
	for _, w := range t.writes[flushed:n] {
		if w.length > 0 {
			since = append(since, w)
		}
	}
	loss, err := lose(to, t.log, since, t.Block, rng)
	return loss, errors.Join(err, to.Close())
}

// advance brings the stable copy to just before write n.
func (t *Trace) advance(n int) error {
	if n < t.at {
		if err := t.stable.Truncate(0); err != nil {
			return err
		}
		if _, err := t.stable.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if err := copySparse(t.stable, t.base); err != nil {
			return err
		}
		t.at = 0
	}
	for ; t.at < n; t.at++ {
		if w := t.writes[t.at]; w.length > 0 {
			if err := w.apply(t.stable, t.log); err != nil {
				return err
			}
		}
	}
	return nil
}
