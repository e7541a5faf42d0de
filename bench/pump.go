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

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link"
	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
)

// sizes are the packets of the pump alone, in bytes of IP.
var sizes = []int{64, 1400, 9000, frame.MaxPacket}

// packetsOf is the number of packets of a size in one round. Those to the card are all queued in
// memory beforehand.
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

// pumpWay is one of the two ways through the pump.
type pumpWay struct {
	name   string
	toHost bool
	bare   func(*os.File, []byte, int, places) (cost, error)
	same   func([]byte) places // the fake card's layout
	pump   func(context.Context, *pumped, int) (cost, error)
}

var bothWays = []pumpWay{
	{"to-host", true, bareWrite, likeSend, pumpToHost},
	{"to-card", false, bareRead, likeReceive, pumpToCard},
}

// pumpRounds holds the cost of one size in one direction, round by round.
type pumpRounds struct{ cpu, rate, hotCPU, hotRate, sameCPU []float64 }

// measurePump compares the pump with bare system calls: the same TUN and the same packets, in turn;
// once in one place that stays in the cache, once in memory laid out like the fake card's.
func measurePump(ctx context.Context, r *run) error {
	stage := r.Progress.Stage("pump alone against bare readv and writev", int64(len(sizes)*len(bothWays)*r.Rounds+1))
	defer stage.Done("")
	for _, size := range sizes {
		for _, way := range bothWays {
			var rounds pumpRounds
			for range r.Rounds {
				stage.Note(fmt.Sprintf("%s, %d bytes", way.name, size))
				if err := rounds.one(ctx, r, way, size); err != nil {
					return fmt.Errorf("%s, %d bytes: %w", way.name, size, err)
				}
				stage.Add(1)
			}
			rounds.report(r, fmt.Sprintf("pump/%s/%d/", way.name, size))
		}
	}
	err := r.measureAllocations(ctx)
	stage.Add(1)
	return err
}

func (p *pumpRounds) one(ctx context.Context, r *run, way pumpWay, size int) error {
	n, packet := packetsOf(size, r.Quick), ipPacket(size)
	bare := func(at places) (cost, error) {
		return withTUN(n, func(t *os.File) (cost, error) { return way.bare(t, packet, n, at) })
	}
	hot, err := bare(oneHot(packet))
	if err != nil {
		return err
	}
	same, err := bare(way.same(packet))
	if err != nil {
		return err
	}
	c, err := r.withPump(ctx, way, packet, n, nil)
	if err != nil {
		return err
	}
	p.cpu, p.rate = append(p.cpu, c.cpuNanos()), append(p.rate, c.perSecond())
	p.hotCPU, p.hotRate = append(p.hotCPU, hot.cpuNanos()), append(p.hotRate, hot.perSecond())
	p.sameCPU = append(p.sameCPU, same.cpuNanos())
	return nil
}

func (p *pumpRounds) report(r *run, name string) {
	r.add(name+"cpu", "ns/packet", p.cpu).lower(p.hotCPU, "bare system calls, one hot buffer")
	r.add(name+"cpu/same-layout", "ns/packet", p.cpu).lower(p.sameCPU, "bare system calls, buffers like the card's")
	r.add(name+"rate", "packets/s", p.rate).higher(p.hotRate, "bare system calls, one hot buffer")
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
	card   *fakecard.Card
	packet []byte
	pid    int
}

// withPump moves n packets one way with a fake card on the real pump, which launch starts; nil is a
// confined process of its own.
func (r *run) withPump(ctx context.Context, way pumpWay, packet []byte, n int, launch func(*os.File) (link.Process, error)) (cost, error) {
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
	card, err := fakecard.Connect(path, fakecard.Options{
		Size: ringSize, Buffer: receiveBuffer(len(packet)), SendBuffer: slot(len(packet)),
		Disabled: !way.toHost, Timeout: patience,
	})
	if err != nil {
		return cost{}, err
	}
	defer card.Close()
	// Where the kernel can do it, the pages are populated before the clock starts.
	_ = unix.Madvise(card.Memory(), unix.MADV_POPULATE_WRITE)
	c, err := way.pump(ctx, &pumped{card, packet, k.PumpPID()}, n)
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
	_, ring := p.card.Pair(0)
	if err := ring.Prefill(cardFrame(p.packet)); err != nil {
		return cost{}, err
	}
	return p.timed(func() error { return nil }, func() (int, error) {
		limit := newLimit(ctx)
		for sent := 0; ; {
			more, err := ring.SendPrefilled(n - sent)
			sent += more
			done := sent - ring.Waiting()
			if err != nil || done == n {
				return done, err
			}
			if more > 0 {
				continue
			}
			if err := limit.check(done, n); err != nil {
				return done, err
			}
		}
	})
}

// pumpToCard receives n packets that are queued at the TUN while the card's rings are off. The
// clock starts when the rings are on; the feeder has finished by then.
func pumpToCard(ctx context.Context, p *pumped, n int) (cost, error) {
	if err := feed(p.packet, n); err != nil {
		return cost{}, err
	}
	ring, _ := p.card.Pair(0)
	return p.timed(func() error { return p.card.Enable(0, true) }, func() (int, error) {
		limit := newLimit(ctx)
		for done := 0; ; {
			got, _, err := ring.Drain(n - done)
			if done += got; err != nil || done == n {
				return done, err
			}
			if got > 0 {
				continue
			}
			if err := limit.check(done, n); err != nil {
				return done, err
			}
		}
	})
}

// timed measures the pump's CPU time while the driver runs on a thread of its own, from begin on.
// The pump sleeps at the start and at the end.
func (p *pumped) timed(begin func() error, drive func() (int, error)) (cost, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const settle = 5 * time.Millisecond
	time.Sleep(settle)
	before, err := cpuTime(p.pid)
	if err != nil {
		return cost{}, err
	}
	start := time.Now()
	if err := begin(); err != nil {
		return cost{}, err
	}
	var heap, heapAfter runtime.MemStats
	runtime.ReadMemStats(&heap)
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

// patience is how long a driver polls before it gives up.
const patience = 20 * time.Second

// limit ends a driver's polling after patience.
type limit struct {
	ctx   context.Context
	until time.Time
	turns int
}

func newLimit(ctx context.Context) *limit {
	return &limit{ctx: ctx, until: time.Now().Add(patience)}
}

var errStalled = errors.New("the pump has stopped moving packets")

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
