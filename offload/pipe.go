package offload

import "github.com/toe-project/toe/offload/raw"

// Sizes of pipes, in bytes of payload.
const (
	// pipeSize is what the kernel gives a pipe room for: so many pages.
	pipeSize = 256 << 10
	// fairShare is what one connection may move before the next has a turn.
	fairShare = 4 << 20
	// leastPipe is what a connection gets when the card is full of payload
	// that nobody takes.
	leastPipe = 4 << 10
	// sparePipes are kept for the next that needs one.
	sparePipes = 32
)

// pipe is where payload is between two sockets: pages that belong to the
// kernel, which this program never sees.
type pipe struct {
	r, w int
	n    int // bytes in it
}

// pipes are those of all connections. A connection has one only while there
// is something in it: one at rest needs none.
type pipes struct {
	spare []*pipe
	room  int // bytes that all pipes together should hold at most
	held  int
}

// get takes an empty pipe.
func (p *pipes) get() (*pipe, error) {
	if n := len(p.spare); n > 0 {
		last := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return last, nil
	}
	r, w, err := raw.Pipe(pipeSize)
	if err != nil {
		return nil, err
	}
	return &pipe{r: r, w: w}, nil
}

// put gives a pipe back. One that is not empty is of no use to another.
func (p *pipes) put(q *pipe) {
	p.held -= q.n
	if q.n > 0 || len(p.spare) >= sparePipes {
		_ = raw.Close(q.r)
		_ = raw.Close(q.w)
		return
	}
	p.spare = append(p.spare, q)
}

// portion is how much may be taken at once: less, the less room there is.
func (p *pipes) portion() int {
	return min(pipeSize, max(leastPipe, (p.room-p.held)/8))
}

func (p *pipes) filled(q *pipe, n int)  { q.n += n; p.held += n }
func (p *pipes) drained(q *pipe, n int) { q.n -= n; p.held -= n }

func (p *pipes) close() {
	for _, q := range p.spare {
		_ = raw.Close(q.r)
		_ = raw.Close(q.w)
	}
	p.spare = nil
}
