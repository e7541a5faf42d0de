package offload

import "github.com/toe-project/toe/offload/raw"

// Sizes of pipes, in bytes of payload.
const (
	// pipeSize is the capacity of a pipe, in whole pages.
	pipeSize = 256 << 10
	// fairShare is the maximum that one connection moves before the next has a turn.
	fairShare = 4 << 20
	// leastPipe is the minimum that a connection can move at once when the card is full of unread
	// payload.
	leastPipe = 4 << 10
	// sparePipes is the maximum number of pipes kept for reuse.
	sparePipes = 32
)

// pipe holds payload between two sockets, in pages of the kernel that this program never maps.
type pipe struct {
	r, w int
	n    int // bytes in it
}

// pipes is the pool of all connections. A connection holds a pipe only while the pipe has payload;
// an idle connection has none.
type pipes struct {
	spare []*pipe
	room  int // target maximum of bytes in all pipes together
	held  int
}

// get returns an empty pipe, a spare one if there is any.
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

// put returns a pipe to the pool. A pipe that is not empty is closed: another connection cannot use
// it.
func (p *pipes) put(q *pipe) {
	p.held -= q.n
	if q.n > 0 || len(p.spare) >= sparePipes {
		_ = raw.Close(q.r)
		_ = raw.Close(q.w)
		return
	}
	p.spare = append(p.spare, q)
}

// portion returns the maximum to read at once, in bytes. It shrinks with the room left.
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
