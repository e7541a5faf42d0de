package bench

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// flow is one round of traffic.
type flow struct {
	bytes, first float64       // in all, and in the first second
	seconds      float64       // how long it ran
	pump, host   time.Duration // CPU of the pump, and of the host in all
}

// stalled reports that too little data moved for a meaningful cost per GiB.
func (f flow) stalled() bool { return f.bytes < 1<<20 }

func (f flow) gbit() float64        { return f.bytes * 8 / 1e9 / f.seconds }
func (f flow) gib() float64         { return f.bytes / (1 << 30) }
func (f flow) pumpPerGiB() float64  { return f.pump.Seconds() / f.gib() }
func (f flow) hostPerGiB() float64  { return f.host.Seconds() / f.gib() }
func (f flow) firstSecond() float64 { return f.first * 8 / 1e9 }

// traffic runs streams TCP connections one way ('i' to the card, 'o' to the host) for length.
// Acknowledged bytes count to the card, received bytes to the host.
func (g *rig) traffic(ctx context.Context, mode byte, streams int, length time.Duration) (flow, error) {
	conns := make([]*net.TCPConn, 0, streams)
	defer func() {
		for _, conn := range conns {
			_ = conn.SetLinger(0) // data left in the socket must not delay the next measurement
			conn.Close()
		}
	}()
	for range streams {
		conn, err := g.dial(ctx, mode)
		if err != nil {
			return flow{}, err
		}
		conns = append(conns, conn)
	}
	var received atomic.Int64
	var wait sync.WaitGroup
	count := func() float64 {
		if mode == 'o' {
			return float64(received.Load())
		}
		sum := 0.0
		for _, conn := range conns {
			sum += acknowledged(conn)
		}
		return sum
	}
	host, pump, err := g.cpu()
	if err != nil {
		return flow{}, err
	}
	start := time.Now()
	for _, conn := range conns {
		_ = conn.SetDeadline(start.Add(length))
		wait.Go(func() { stream(conn, mode, &received) })
	}
	f := flow{}
	select {
	case <-time.After(time.Second):
		f.first = count() / time.Since(start).Seconds()
	case <-ctx.Done():
	}
	stop := context.AfterFunc(ctx, func() {
		for _, conn := range conns {
			_ = conn.SetDeadline(time.Now())
		}
	})
	defer stop()
	wait.Wait()
	if ctx.Err() != nil {
		return f, ctx.Err()
	}
	f.bytes, f.seconds = count(), time.Since(start).Seconds()
	hostAfter, pumpAfter, err := g.cpu()
	f.host, f.pump = hostAfter-host, pumpAfter-pump
	return f, err
}

// stream moves bytes until the deadline.
func stream(conn *net.TCPConn, mode byte, received *atomic.Int64) {
	buf := make([]byte, 1<<20)
	for {
		var n int
		var err error
		if mode == 'o' {
			n, err = conn.Read(buf)
			received.Add(int64(n))
		} else {
			_, err = conn.Write(buf)
		}
		if err != nil {
			return
		}
	}
}

// acknowledged returns how many bytes the other side has acknowledged.
func acknowledged(conn *net.TCPConn) (n float64) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			n = float64(info.Bytes_acked)
		}
	})
	return n
}

// settle waits until queued data has passed: until a small request returns as fast as on an idle
// path.
func (g *rig) settle(ctx context.Context) error {
	const trips, pause = 20, 50 * time.Millisecond
	if _, err := g.roundTrip(ctx, trips); err != nil {
		return fmt.Errorf("settling: %w", err)
	}
	time.Sleep(pause)
	return ctx.Err()
}

// tripsLimit is the maximum time of all round trips; a slow path has fewer of them.
const tripsLimit = 5 * time.Second

// roundTrip is the median time of one byte there and back, in µs, of n times
// or of as many as fit into the limit.
func (g *rig) roundTrip(ctx context.Context, n int) (float64, error) {
	conn, err := g.dial(ctx, 'e')
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	var b [1]byte
	times := make([]float64, 0, n)
	for begin := time.Now(); len(times) < n && time.Since(begin) < tripsLimit; {
		start := time.Now()
		if _, err = conn.Write(b[:]); err == nil {
			_, err = conn.Read(b[:])
		}
		if err != nil {
			return 0, fmt.Errorf("round trip %d: %w", len(times), err)
		}
		times = append(times, float64(time.Since(start).Nanoseconds())/1e3)
	}
	return median(times), nil
}
