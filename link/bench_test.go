package link

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
)

// The pump beside bare system calls, towards the card. Both read the same packets,
// queued in the TUN before the clock runs, into buffers of the same size and number,
// and the driver makes the same pass over the same memory. The benchmark measures the
// CPU time of the reader. Compare ns/packet; ns/op includes the feeder.

const (
	benchQueued = 512 // packets in the TUN
	benchRing   = 256
	benchBuffer = 4096
)

var benchSizes = []int{64, 9000, frame.MaxPacket}

// benchHost is a host whose TUN holds benchQueued packets.
func benchHost(b *testing.B) *host {
	h := newHost(b, false, 1)
	unix.SetsockoptInt(h.sock, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 1<<30)
	h.longQueue(b)
	return h
}

func (h *host) longQueue(b *testing.B) {
	ifr, _ := unix.NewIfreq("toetest")
	ifr.SetUint32(benchQueued)
	if err := unix.IoctlIfreq(h.sock, unix.SIOCSIFTXQLEN, ifr); err != nil {
		b.Fatal(err)
	}
}

// cpuOf is the CPU time of a process in ns.
func cpuOf(b *testing.B, pid int) (sum int64) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	all, err := os.ReadDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	for _, t := range all {
		text, _ := os.ReadFile(dir + "/" + t.Name() + "/schedstat")
		var ns int64
		fmt.Sscan(string(text), &ns)
		sum += ns
	}
	return sum
}

func BenchmarkToCard(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			w := newWorldOn(b, benchHost(b), worldOptions{process: true, card: fakecard.Options{Disabled: true, Size: benchRing, Buffer: benchBuffer}})
			packet := fakecard.UDP(hostIP, cardIP, 1, 9, size)
			rx, _ := w.card.Pair(0)
			var cpu int64
			for done := 0; done < b.N; {
				n := min(benchQueued, b.N-done)
				for range n {
					w.send(b, vnet{}, packet)
				}
				before := cpuOf(b, w.k.PumpPID())
				if err := w.card.Enable(0, true); err != nil {
					b.Fatal(err)
				}
				w.drain(b, rx, n)
				cpu += cpuOf(b, w.k.PumpPID()) - before
				if err := w.card.Enable(0, false); err != nil {
					b.Fatal(err)
				}
				done += n
			}
			b.ReportMetric(float64(cpu)/float64(b.N), "ns/packet")
			s := w.k.Stats()[0].ToCard
			b.ReportMetric(float64(s.Stalls)/float64(b.N), "stalls/packet")
			b.ReportMetric(float64(s.Kicks)/float64(b.N), "kicks/packet")
			b.ReportMetric(float64(s.Calls)/float64(b.N), "calls/packet")
		})
	}
}

func (w *world) drain(b *testing.B, rx *fakecard.Ring, n int) {
	for deadline := time.Now().Add(10 * time.Second); n > 0; {
		k, _, err := rx.Drain(n)
		if err != nil {
			b.Fatal(err)
		}
		if n -= k; k == 0 && time.Now().After(deadline) {
			b.Fatalf("%d packets did not come: %+v", n, w.k.Stats())
		}
	}
}

// BenchmarkBareToCard is readv alone: into one place that stays in the cache, and
// into pages laid out as the card's.
func BenchmarkBareToCard(b *testing.B) {
	for _, layout := range []string{"hot", "same"} {
		for _, size := range benchSizes {
			b.Run(layout+"/"+fmt.Sprint(size), func(b *testing.B) {
				h := benchHost(b)
				defer closeAll(h.files)
				packet := fakecard.UDP(hostIP, cardIP, 1, 9, size)
				mem := make([]byte, benchRing*benchBuffer)
				for i := range mem {
					mem[i] = 1
				}
				fd := int(h.files[0].Fd())
				unix.SetNonblock(fd, true)
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				var cpu time.Duration
				next := 0
				for done := 0; done < b.N; {
					n := min(benchQueued, b.N-done)
					for range n {
						h.send(b, vnet{}, packet)
					}
					before := threadCPU()
					for range n {
						next = bareRead(b, fd, mem, size, next, layout == "same")
					}
					cpu += threadCPU() - before
					done += n
				}
				b.ReportMetric(float64(cpu)/float64(b.N), "ns/packet")
			})
		}
	}
}

func segment(p *byte, size int) unix.Iovec {
	v := unix.Iovec{Base: p}
	v.SetLen(size)
	return v
}

// bareRead reads a packet into pages from next on, or into the start of the
// memory, and returns the page behind it.
func bareRead(b *testing.B, fd int, mem []byte, size, next int, pages bool) int {
	var header [frame.HeaderLen]byte
	var room [32]unix.Iovec
	iov := append(room[:0], unix.Iovec{Base: &header[0], Len: frame.HeaderLen})
	if !pages {
		iov = append(iov, segment(&mem[0], size))
	}
	for left, skip := size, frame.SeamLen; pages && left > 0; skip = 0 {
		n := min(left, benchBuffer-skip)
		iov = append(iov, segment(&mem[next*benchBuffer+skip], n))
		left -= n
		next = (next + 1) % benchRing
	}
	if n, _, e := unix.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov))); e != 0 || int(n) != size+frame.HeaderLen {
		b.Fatalf("readv of %d bytes: %d, %v", size, n, e)
	}
	return next
}

func threadCPU() time.Duration {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}
