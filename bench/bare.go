package bench

import (
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cost is what a number of packets took.
type cost struct {
	packets   int
	cpu, wall time.Duration
	objects   uint64 // allocated on this process's heap
}

func (c cost) cpuNanos() float64 { return float64(c.cpu.Nanoseconds()) / float64(max(c.packets, 1)) }
func (c cost) perSecond() float64 {
	return float64(c.packets) / max(c.wall, time.Nanosecond).Seconds()
}

// vectored is readv(2) or writev(2) of one vector.
func vectored(call, fd uintptr, v []unix.Iovec) unix.Errno {
	_, _, e := unix.RawSyscall(call, fd, uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
	return e
}

// bareWrite is the minimum cost of sending n packets: writev in a loop.
func bareWrite(tun *os.File, packet []byte, n int, at places) (cost, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, start, cpu := tun.Fd(), time.Now(), threadTime()
	for i, next := 0, 0; i < n; i++ {
		if e := vectored(unix.SYS_WRITEV, fd, at[next]); e != 0 {
			return cost{}, fmt.Errorf("writev of %d bytes: %w", len(packet), e)
		}
		if next++; next == len(at) {
			next = 0
		}
	}
	return cost{packets: n, cpu: threadTime() - cpu, wall: time.Since(start)}, nil
}

// bareRead reads the queued packets: readv in a loop.
func bareRead(tun *os.File, packet []byte, n int, at places) (cost, error) {
	if err := feed(packet, n); err != nil {
		return cost{}, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd := tun.Fd()
	if err := unix.SetNonblock(int(fd), true); err != nil {
		return cost{}, err
	}
	got, start, cpu := 0, time.Now(), threadTime()
	for next := 0; ; got++ {
		e := vectored(unix.SYS_READV, fd, at[next])
		if e == unix.EAGAIN {
			break
		}
		if e != 0 {
			return cost{}, fmt.Errorf("readv of %d bytes: %w", len(packet), e)
		}
		if next++; next == len(at) {
			next = 0
		}
	}
	c := cost{packets: got, cpu: threadTime() - cpu, wall: time.Since(start)}
	if got < n*9/10 {
		return c, fmt.Errorf("only %d of %d packets of %d bytes were queued", got, n, len(packet))
	}
	return c, nil
}
