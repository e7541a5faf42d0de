package bench

import (
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
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

// bareVector is the header and the place of packet i, as readv and writev
// want them.
func bareVector(header *[frame.HeaderLen]byte, mem []byte, i, stride, size int) [2]unix.Iovec {
	at := i % (len(mem) / stride) * stride
	return [2]unix.Iovec{{Base: &header[0], Len: frame.HeaderLen}, {Base: &mem[at], Len: uint64(size)}}
}

// bareWrite is the least that sending n packets can take: writev in a loop,
// from as many places as the fake card sends from.
func bareWrite(tun *os.File, packet []byte, n int) (cost, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stride := slot(len(packet))
	mem := make([]byte, ringSize*stride)
	for i := range ringSize {
		copy(mem[i*stride:], packet)
	}
	var header [frame.HeaderLen]byte
	fd, start, cpu := tun.Fd(), time.Now(), threadTime()
	for i := range n {
		v := bareVector(&header, mem, i, stride, len(packet))
		if _, _, e := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v[0])), 2); e != 0 {
			return cost{}, fmt.Errorf("writev of %d bytes: %w", len(packet), e)
		}
	}
	return cost{packets: n, cpu: threadTime() - cpu, wall: time.Since(start)}, nil
}

// bareRead takes what is queued: readv in a loop, to as much memory as the
// fake card has receive buffers.
func bareRead(tun *os.File, packet []byte, n int) (cost, error) {
	if err := feed(packet, n); err != nil {
		return cost{}, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stride := slot(len(packet))
	mem := make([]byte, max(ringSize*receiveBuffer(len(packet)), stride))
	for i := 0; i < len(mem); i += 4096 {
		mem[i] = 1
	}
	var header [frame.HeaderLen]byte
	got := 0
	fd := tun.Fd()
	if err := unix.SetNonblock(int(fd), true); err != nil {
		return cost{}, err
	}
	start, cpu := time.Now(), threadTime()
	for ; ; got++ {
		v := bareVector(&header, mem, got, stride, len(packet))
		_, _, e := unix.RawSyscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&v[0])), 2)
		if e == unix.EAGAIN {
			break
		}
		if e != 0 {
			return cost{}, fmt.Errorf("readv of %d bytes: %w", len(packet), e)
		}
	}
	c := cost{packets: got, cpu: threadTime() - cpu, wall: time.Since(start)}
	if got < n*9/10 {
		return c, fmt.Errorf("only %d of %d packets of %d bytes were queued", got, n, len(packet))
	}
	return c, nil
}
