package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/toe-project/toe/link"
	"github.com/toe-project/toe/link/frame"
)

// sizes are the packets of the pump alone, in bytes of IP.
var sizes = []int{64, 1400, 9000, frame.MaxPacket}

// packetsOf is how many packets of a size one round moves. They are all
// queued in memory beforehand when they go towards the card.
func packetsOf(size int, quick bool) int {
	n := 100_000
	switch {
	case size > 32<<10:
		n = 4_000
	case size > 4<<10:
		n = 20_000
	}
	if quick {
		n /= 4
	}
	return n
}

// receiveBuffer is what Linux's driver offers for packets of a size: pages for
// large ones, of which a packet takes several, a little over 1500 for small.
func receiveBuffer(size int) int {
	if size > 1500 {
		return 4096
	}
	return 1536
}

// bothWays are the two ways through the pump.
var bothWays = []struct {
	name string
	bare func(*os.File, []byte, int) (cost, error)
	pump func(context.Context, *pumped, int) (cost, error)
}{
	{"to-host", bareWrite, pumpToHost},
	{"to-card", bareRead, pumpToCard},
}

// measurePump sets the pump beside bare system calls: the same TUN, the same
// packets, the same amount of memory, turn by turn.
func measurePump(ctx context.Context, r *run) error {
	stage := r.Progress.Stage("pump alone against bare readv and writev", int64(len(sizes)*len(bothWays)*r.Rounds+1))
	defer stage.Done("")
	for _, size := range sizes {
		for _, way := range bothWays {
			n, packet := packetsOf(size, r.Quick), ipPacket(size)
			var cpu, rate, bareCPU, bareRate []float64
			for range r.Rounds {
				stage.Note(fmt.Sprintf("%s, %d bytes", way.name, size))
				bare, err := withTUN(n, func(t *os.File) (cost, error) { return way.bare(t, packet, n) })
				if err != nil {
					return err
				}
				c, err := r.withPump(ctx, packet, n, way.pump)
				if err != nil {
					return fmt.Errorf("%s, %d bytes: %w", way.name, size, err)
				}
				cpu, rate = append(cpu, c.cpuNanos()), append(rate, c.perSecond())
				bareCPU, bareRate = append(bareCPU, bare.cpuNanos()), append(bareRate, bare.perSecond())
				stage.Add(1)
			}
			name := fmt.Sprintf("pump/%s/%d/", way.name, size)
			r.add(name+"cpu", "ns/packet", cpu).lower(median(bareCPU), "bare system calls")
			r.add(name+"rate", "packets/s", rate).higher(median(bareRate), "bare system calls")
		}
	}
	err := r.measureAllocations(ctx)
	stage.Add(1)
	return err
}

func withTUN(queued int, f func(*os.File) (cost, error)) (cost, error) {
	t, err := openTUN(queued + ringSize)
	if err != nil {
		return cost{}, err
	}
	defer t.Close()
	return f(t)
}

// pumped is a fake card joined to a pump.
type pumped struct {
	card   *fakeCard
	packet []byte
	pid    int
}

// withPump runs f with a fake card on the real pump, confined and in a process
// of its own.
func (r *run) withPump(ctx context.Context, packet []byte, n int, f func(context.Context, *pumped, int) (cost, error)) (cost, error) {
	return r.withLaunch(ctx, packet, n, nil, f)
}

func (r *run) withLaunch(ctx context.Context, packet []byte, n int, launch func(*os.File) (link.Process, error),
	f func(context.Context, *pumped, int) (cost, error)) (cost, error) {
	t, err := openTUN(n + ringSize)
	if err != nil {
		return cost{}, err
	}
	path := filepath.Join(r.dir, "pump.sock")
	defer os.Remove(path)
	k, err := link.NewKeeper(link.Device{
		Name: tunName, Socket: path, MAC: net.HardwareAddr{2, 't', 'o', 'e', 0, 1},
		MTU: frame.MaxPacket, Files: []*os.File{t}, Seam: true,
	}, link.Options{Launch: launch, Event: func(e link.Event) { r.Progress.Log("%s: %s", e.Device, e.Text) }})
	if err != nil {
		return cost{}, err
	}
	served := make(chan error, 1)
	go func() { served <- k.Serve(ctx) }()
	defer func() { k.Close(); <-served }()
	card, err := newFakeCard(path, packet, receiveBuffer(len(packet)))
	if err != nil {
		return cost{}, err
	}
	defer card.close()
	c, err := f(ctx, &pumped{card, packet, k.PumpPID()}, n)
	if err != nil {
		return c, err
	}
	if s := k.Stats()[0]; s.ToHost.Packets+s.ToCard.Packets < uint64(n) {
		return c, fmt.Errorf("the pump counted %d packets to the host and %d to the card of %d: drops %+v and %+v",
			s.ToHost.Packets, s.ToCard.Packets, n, s.ToHost.Drops, s.ToCard.Drops)
	}
	return c, nil
}

// pumpToHost sends n packets: the driver keeps the ring full.
func pumpToHost(ctx context.Context, p *pumped, n int) (cost, error) {
	ring := p.card.tx
	return p.timed(func() (int, error) {
		sent, done := min(n, ringSize), 0
		ring.publish(uint16(sent))
		limit := newLimit(ctx)
		for done < n {
			got := int(ring.completed())
			if done += got; got > 0 {
				more := min(got, n-sent)
				ring.publish(uint16(more))
				sent += more
			} else if err := limit.check(done, n); err != nil {
				return done, err
			}
		}
		return done, nil
	})
}

// pumpToCard takes n packets that are queued at the TUN while the card has no
// room for any; time runs from the first buffer on, and whoever feeds is done.
func pumpToCard(ctx context.Context, p *pumped, n int) (cost, error) {
	if err := feed(p.packet, n); err != nil {
		return cost{}, err
	}
	ring, size := p.card.rx, receiveBuffer(len(p.packet))
	return p.timed(func() (int, error) {
		done, left, at := 0, uint16(0), uint16(0)
		ring.publish(ringSize)
		limit := newLimit(ctx)
		for done < n {
			got := ring.completed()
			if got == 0 {
				if err := limit.check(done, n); err != nil {
					return done, err
				}
				continue
			}
			// Look at each packet's header, as a driver must.
			for i := range got {
				if left == 0 {
					left = max(p.card.buffers(size, at+i), 1)
					done++
				}
				left--
			}
			at += got
			ring.publish(got)
		}
		return done, nil
	})
}

// timed measures what the pump takes while the driver runs on a thread of its
// own. It starts and ends with a pump that sleeps.
func (p *pumped) timed(drive func() (int, error)) (cost, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const settle = 5 * time.Millisecond
	time.Sleep(settle)
	before, err := cpuTime(p.pid)
	if err != nil {
		return cost{}, err
	}
	var heap, heapAfter runtime.MemStats
	runtime.ReadMemStats(&heap)
	start := time.Now()
	n, err := drive()
	wall := time.Since(start)
	runtime.ReadMemStats(&heapAfter)
	if err != nil {
		return cost{}, err
	}
	time.Sleep(settle)
	after, err := cpuTime(p.pid)
	return cost{n, after - before, wall, heapAfter.Mallocs - heap.Mallocs}, err
}

// limit ends a driver's polling when nothing comes any more.
type limit struct {
	ctx   context.Context
	until time.Time
	turns int
}

func newLimit(ctx context.Context) *limit {
	const patience = 20 * time.Second
	return &limit{ctx: ctx, until: time.Now().Add(patience)}
}

var errStalled = errors.New("the pump moves nothing any more")

func (l *limit) check(done, n int) error {
	if l.turns++; l.turns%4096 != 0 {
		return nil
	}
	if err := l.ctx.Err(); err != nil {
		return err
	}
	if time.Now().After(l.until) {
		return fmt.Errorf("%w after %d of %d packets", errStalled, done, n)
	}
	return nil
}
