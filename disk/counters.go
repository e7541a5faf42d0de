package disk

import (
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/toe-project/toe/internal/sharedmem"
	"github.com/toe-project/toe/link"
)

// words are the counters in memory that the keeper shares with every worker of the disk. One worker
// writes whole words.
type words struct {
	reads, readBytes     uint64
	writes, writtenBytes uint64
	flushes              uint64
	discards, zeroes     uint64
	unsupported, errors  uint64
	lost                 uint64 // flushes that failed: the disk refuses writes from the first one on
}

const wordsLen = 16 * 8

type counters struct {
	*words
	memory *sharedmem.Memory
}

func newCounters() (*counters, error) {
	m, err := sharedmem.New("disk counters", wordsLen)
	return countersIn(m, err)
}

func openCounters(f *os.File) (*counters, error) {
	m, err := sharedmem.Open(f, wordsLen)
	return countersIn(m, err)
}

func countersIn(m *sharedmem.Memory, err error) (*counters, error) {
	if err != nil {
		return nil, err
	}
	return &counters{(*words)(unsafe.Pointer(&m.Bytes()[0])), m}, nil
}

func (c *counters) add(p *uint64, n uint64) { atomic.StoreUint64(p, *p+n) }
func (c *counters) load(p *uint64) uint64   { return atomic.LoadUint64(p) }

// Stats counts what a disk has done since its keeper was made.
type Stats struct {
	Reads        uint64 `json:"reads"` // requests
	ReadBytes    uint64 `json:"read_bytes"`
	Writes       uint64 `json:"writes"`
	WrittenBytes uint64 `json:"written_bytes"`
	Flushes      uint64 `json:"flushes"` // each one fdatasync
	Discards     uint64 `json:"discards"`
	Zeroes       uint64 `json:"write_zeroes"`
	Unsupported  uint64 `json:"unsupported"` // requests of unknown type
	Errors       uint64 `json:"errors"`      // requests that failed
	// Lost counts flushes that failed. After the first one the disk refuses writes until the card
	// is taken down.
	Lost uint64 `json:"lost"`
}

func (c *counters) stats() (s Stats) {
	c.memory.Read(func() {
		s = Stats{
			Reads: c.load(&c.reads), ReadBytes: c.load(&c.readBytes),
			Writes: c.load(&c.writes), WrittenBytes: c.load(&c.writtenBytes),
			Flushes: c.load(&c.flushes), Discards: c.load(&c.discards), Zeroes: c.load(&c.zeroes),
			Unsupported: c.load(&c.unsupported), Errors: c.load(&c.errors), Lost: c.load(&c.lost),
		}
	})
	return s
}

// errorLog limits reports of errors: a full file system makes each write fail.
type errorLog struct {
	next time.Time
}

// errorPause is the least time between two reports of one worker.
const errorPause = 10 * time.Second

func (l *errorLog) report(w link.Worker, err error) {
	now := time.Now()
	if now.Before(l.next) {
		return
	}
	l.next = now.Add(errorPause)
	w.Report(err)
}
