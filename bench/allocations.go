package bench

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link"
)

// inside is a pump in this process, where its allocations are visible.
type inside struct{ done chan struct{} }

func (p *inside) PID() int { return os.Getpid() }

// Kill does nothing: a pump ends when its keeper hangs up.
func (p *inside) Kill() {}

func (p *inside) Wait() string {
	<-p.done
	return "ended"
}

func launchInside(orders *os.File) (link.Process, error) {
	fd, err := unix.FcntlInt(orders.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("orders: %w", err)
	}
	p := &inside{done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer unix.Close(fd)
		link.Pump(fd, nil)
	}()
	return p, nil
}

// measureAllocations counts the heap's objects around a round each way.
func (r *run) measureAllocations(ctx context.Context) error {
	const size = 1400
	n := packetsOf(size, r.Quick)
	var rounds []float64
	for range r.Rounds {
		objects, packets := uint64(0), 0
		for _, way := range bothWays {
			c, err := r.withPump(ctx, way, ipPacket(size), n, launchInside)
			if err != nil {
				return fmt.Errorf("allocations: %w", err)
			}
			objects += c.objects
			packets += c.packets
		}
		rounds = append(rounds, float64(objects)/float64(max(packets, 1)))
	}
	r.add("pump/allocations", "objects/packet", rounds)
	return nil
}
