package link

import (
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/toe-project/toe/internal/sharedmem"
)

// counters is one direction of one queue pair, in memory that the keeper shares with every pump of
// the device. The counters outlive a pump, and reading them stops nothing. One pump writes whole
// words, so a reader sees each value as it was at some moment.
type counters struct {
	packets, bytes              uint64
	kicks, calls, stalls        uint64
	short, long, notIP, header  uint64 // drops: what the packet looked like
	disabled, refused, tooSmall uint64 // drops: the state of the destination
	chains, broken              uint64 // the ring: bad chains, times stopped
	recalls                     uint64 // calls that were repeated
	fault                       uint64 // drops: the card's buffer is not there
}

const countersLen = 16 * 8

// Direction counts what went one way through one queue pair since the link was
// made.
type Direction struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`  // of IP (or Ethernet on a port), without the seam
	Kicks   uint64 `json:"kicks"`  // times the card woke the pump
	Calls   uint64 `json:"calls"`  // times the pump called the card
	Stalls  uint64 `json:"stalls"` // times the pump had to wait for buffers
	// Recalls counts calls that were repeated because the card did
	// not act on the first.
	Recalls uint64 `json:"recalls"`
	Drops   Drops  `json:"drops"`
	// BadChains were returned to the card unused; Broken counts how often
	// the ring had to be stopped.
	BadChains uint64 `json:"bad_chains"`
	Broken    uint64 `json:"broken"`
}

// Drops counts dropped packets, by cause.
type Drops struct {
	Short    uint64 `json:"short"`     // shorter than its headers
	Long     uint64 `json:"long"`      // longer than 65535 bytes
	NotIP    uint64 `json:"not_ip"`    // neither IPv4 nor IPv6
	Header   uint64 `json:"header"`    // checksum or segmentation fields that do not fit
	Disabled uint64 `json:"disabled"`  // queue pair switched off by the driver
	Refused  uint64 `json:"refused"`   // the kernel or the port did not take it
	TooSmall uint64 `json:"too_small"` // no receive buffer is large enough
	Fault    uint64 `json:"fault"`     // the card's buffer is not there: its memory file was cut short
}

// Total is the sum over all causes.
func (d Drops) Total() uint64 {
	return d.Short + d.Long + d.NotIP + d.Header + d.Disabled + d.Refused + d.TooSmall + d.Fault
}

// QueueStats is one queue pair.
type QueueStats struct {
	ToCard Direction `json:"to_card"`
	ToHost Direction `json:"to_host"`
}

// board is the shared memory with the counters: two per queue pair, towards
// the card first.
type board struct {
	*sharedmem.Memory
	all []counters
}

// newBoard makes the memory; openBoard maps one that was passed in.
func newBoard(pairs int) (*board, error) {
	m, err := sharedmem.New("counters", 2*pairs*countersLen)
	return boardOf(m, pairs, err)
}

func openBoard(f *os.File, pairs int) (*board, error) {
	m, err := sharedmem.Open(f, 2*pairs*countersLen)
	return boardOf(m, pairs, err)
}

func boardOf(m *sharedmem.Memory, pairs int, err error) (*board, error) {
	if err != nil {
		return nil, err
	}
	return &board{m, unsafe.Slice((*counters)(unsafe.Pointer(&m.Bytes()[0])), 2*pairs)}, nil
}

func (b *board) stats() (out []QueueStats) {
	b.Read(func() {
		for i := 0; i < len(b.all); i += 2 {
			out = append(out, QueueStats{ToCard: b.all[i].read(), ToHost: b.all[i+1].read()})
		}
	})
	return out
}

func (c *counters) read() Direction {
	l := func(p *uint64) uint64 { return atomic.LoadUint64(p) }
	return Direction{
		Packets: l(&c.packets), Bytes: l(&c.bytes), Kicks: l(&c.kicks), Calls: l(&c.calls), Stalls: l(&c.stalls), Recalls: l(&c.recalls),
		Drops: Drops{Short: l(&c.short), Long: l(&c.long), NotIP: l(&c.notIP), Header: l(&c.header),
			Disabled: l(&c.disabled), Refused: l(&c.refused), TooSmall: l(&c.tooSmall), Fault: l(&c.fault)},
		BadChains: l(&c.chains), Broken: l(&c.broken),
	}
}

// count adds to a counter that only this pump writes. A load and a store of the word are enough and
// avoid the bus lock of an atomic addition.
func count(p *uint64, n uint64) { atomic.StoreUint64(p, *p+n) }
