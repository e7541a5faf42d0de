package link

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
)

// ticks are the clock ticks of 10 ms that a process has run.
func ticks(t *testing.T, pid int) (n int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var user, system int
	fmt.Sscan(f[11], &user)
	fmt.Sscan(f[12], &system)
	return user + system
}

// idle fails if the pump runs with nothing to do.
func (w *world) idle(t *testing.T) {
	t.Helper()
	time.Sleep(50 * time.Millisecond)
	before := ticks(t, w.k.PumpPID())
	time.Sleep(400 * time.Millisecond)
	if n := ticks(t, w.k.PumpPID()) - before; n > 8 {
		t.Errorf("the pump ran for %d ms of 400 with nothing to do", 10*n)
	}
}

// A ring is out of buffers when it is disabled, and then gets buffers. The pump
// ignores them and sleeps.
func TestSwitchedOffWhileStarved(t *testing.T) {
	w := newWorld(t, worldOptions{process: true, card: fakecard.Options{Size: 32}})
	packet := fakecard.UDP(hostIP, cardIP, 1, 9, 1500)
	for range 40 {
		w.send(t, vnet{}, packet)
	}
	w.stat(t, "stalls", func(s QueueStats) uint64 { return min(s.ToCard.Stalls, 1) }, 1)
	if err := w.card.Enable(0, false); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, fakecard.FrameMax)
	n := int(w.k.Stats()[0].ToCard.Packets)
	for range n {
		if _, err := w.card.Recv(buf); err != nil {
			t.Fatal(err)
		}
	}
	w.idle(t)
	if err := w.card.Enable(0, true); err != nil {
		t.Fatal(err)
	}
	for ; n < 40; n++ {
		if _, err := w.card.Recv(buf); err != nil {
			t.Fatalf("packet %d: %v", n, err)
		}
	}
}

// A full socket does not keep the pump awake. Pending frames go out as soon as
// there is room, whole and in order.
func TestStreamTakesNothing(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	far := os.NewFile(uintptr(fds[1]), "far")
	defer far.Close()
	reader, err := net.FileConn(far)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	h := &host{files: []*os.File{os.NewFile(uintptr(fds[0]), "near")}, sock: -1}
	w := newWorldOn(t, h, worldOptions{process: true, tap: true, device: func(d *Device) { d.Stream = true }})

	const size = 20000
	sent := 0
	body := func(i int) []byte { return fakecard.UDP(cardIP, hostIP, uint16(i), 9, size) }
	for quiet := 0; quiet < 5; {
		n, err := w.card.SendBatch([][]byte{fakecard.Frame(body(sent))})
		if err != nil {
			t.Fatal(err)
		}
		if sent += n; n == 0 {
			quiet++
			time.Sleep(10 * time.Millisecond)
		}
	}
	w.idle(t)
	reader.SetReadDeadline(time.Now().Add(5 * time.Second))
	got := make([]byte, streamHead+frame.EtherLen+size)
	for i := range sent {
		if _, err := io.ReadFull(reader, got); err != nil {
			t.Fatalf("frame %d of %d: %v", i, sent, err)
		}
		if n := binary.BigEndian.Uint32(got); n != frame.EtherLen+size || !bytes.Equal(got[streamHead+frame.EtherLen:], body(i)) {
			t.Fatalf("frame %d of %d bytes differs", i, n)
		}
	}
}
