package link

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/fakecard"
	"github.com/toe-project/toe/link/frame"
)

// frameNumbered is an Ethernet frame of a length that depends on its number,
// some of them longer than the kernel takes as one buffer, and in it nothing
// but its number.
func frameNumbered(n uint32) []byte {
	sizes := []int{60, 1514, 9014, 33000, 50000, 65535}
	b := make([]byte, 0, maxFrame)
	for len(b) < sizes[n%uint32(len(sizes))]-3 {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

func checkNumbered(b []byte) error {
	if len(b) < frame.EtherLen {
		return fmt.Errorf("a frame of %d bytes", len(b))
	}
	n := binary.BigEndian.Uint32(b)
	if want := frameNumbered(n); !bytes.Equal(b, want) {
		return fmt.Errorf("frame %d of %d bytes is not the one of %d bytes that was sent", n, len(b), len(want))
	}
	return nil
}

// readFrames is the far side of a stream: it takes frames in, at times none
// for a while so that the socket is full, and checks that every one is whole.
func readFrames(c net.Conn, got *atomic.Int64) error {
	head, body := make([]byte, streamHead), make([]byte, maxFrame)
	for n := 0; ; n++ {
		if _, err := io.ReadFull(c, head); err != nil {
			return nil // the end of the test
		}
		size := binary.BigEndian.Uint32(head)
		if size < frame.EtherLen || size > maxFrame {
			return fmt.Errorf("out of step: a length of %d", size)
		}
		if _, err := io.ReadFull(c, body[:size]); err != nil {
			return nil
		}
		if err := checkNumbered(body[:size]); err != nil {
			return err
		}
		got.Add(1)
		if n%64 == 0 {
			time.Sleep(3 * time.Millisecond)
		}
	}
}

// writeFrames sends frames, each in pieces, as a full socket makes of them.
func writeFrames(c net.Conn) error {
	for n := uint32(0); ; n++ {
		b := frameNumbered(n)
		b = append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
		for cut := 1 + rand.IntN(len(b)); len(b) > 0; cut = len(b) {
			if _, err := c.Write(b[:cut]); err != nil {
				return nil // the end of the test
			}
			b = b[cut:]
		}
	}
}

// A pump is killed at any point. The next one finds the stream at the start of a
// frame, both ways. Packets move again within a second each time, and none is torn.
func TestStreamSurvivesKills(t *testing.T) {
	w, peer := newStreamWorldOn(t, worldOptions{process: true})
	peer.SetDeadline(time.Now().Add(time.Minute))
	var toHost, toCard atomic.Int64
	var stop atomic.Bool
	errs := make(chan error, 4)
	go func() { errs <- readFrames(peer, &toHost) }()
	go func() { errs <- writeFrames(peer) }()
	var card sync.WaitGroup
	card.Go(func() {
		for n := uint32(0); !stop.Load(); n++ {
			if err := w.card.Send(append(make([]byte, frame.HeaderLen), frameNumbered(n)...)); err != nil {
				errs <- err
				return
			}
		}
		errs <- nil
	})
	card.Go(func() {
		buf := make([]byte, fakecard.FrameMax)
		for !stop.Load() {
			n, err := w.card.Recv(buf)
			if err == nil {
				err = checkNumbered(buf[frame.HeaderLen:n])
			}
			if err != nil {
				errs <- err
				return
			}
			toCard.Add(1)
		}
		errs <- nil
	})
	moves := func(what string) {
		t.Helper()
		a, b := toHost.Load(), toCard.Load()
		for began := time.Now(); toHost.Load() < a+50 || toCard.Load() < b+50; time.Sleep(time.Millisecond) {
			select {
			case err := <-errs:
				t.Fatalf("%s: %v; events %q", what, errors.Join(err), w.news())
			default:
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Fatalf("%s: %d frames from the card and %d to it in %s; events %q", what, toHost.Load()-a, toCard.Load()-b, took, w.news())
			}
		}
	}
	t.Cleanup(func() { stop.Store(true); card.Wait(); peer.Close() })
	moves("at first")
	for i := range 9 { // ten in ten seconds make the keeper wait
		pid := w.k.PumpPID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		for w.k.PumpPID() == pid || w.k.PumpPID() == 0 {
			time.Sleep(time.Millisecond)
		}
		moves(fmt.Sprintf("after kill %d", i+1))
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
	}
	stop.Store(true)
	for range 2 { // the two that have to do with the card
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	peer.Close()
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d frames from the card, %d to it", toHost.Load(), toCard.Load())
}

// to is an Ethernet frame for an address, with a byte for the program to know
// it by.
func to(address string, mark byte) []byte {
	b := make([]byte, 14, 80)
	if a := netip.MustParseAddr(address); a.Is4() {
		b[12], b[13] = 0x08, 0x00
		b = append(append(b, make([]byte, 16)...), a.AsSlice()...)
	} else {
		b[12], b[13] = 0x86, 0xdd
		b = append(append(b, make([]byte, 24)...), a.AsSlice()...)
	}
	return append(b, mark)
}

// Frames that passt would connect to the host's own loopback do not reach passt.
func TestStreamKeepsOffLoopback(t *testing.T) {
	w, peer := newStreamWorld(t, fakecard.Options{})
	for _, address := range []string{"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "::1", "::", "::ffff:127.0.0.1", "::7f00:1"} {
		if err := w.card.Send(append(make([]byte, frame.HeaderLen), to(address, 0)...)); err != nil {
			t.Fatal(err)
		}
	}
	for i, address := range []string{"10.0.2.2", "126.255.255.255", "128.0.0.1", "255.255.255.255", "fe80::1", "ff02::1", "64:ff9b::1", "2001:db8::1"} {
		f := to(address, byte(1+i))
		if err := w.card.Send(append(make([]byte, frame.HeaderLen), f...)); err != nil {
			t.Fatal(err)
		}
		if got := readFull(t, peer, streamHead+len(f))[streamHead:]; !bytes.Equal(got, f) {
			t.Errorf("frame for %s: %x came out, want %x", address, got, f)
		}
	}
	w.stat(t, "refused", func(s QueueStats) uint64 { return s.ToHost.Drops.Refused }, 8)
}

// A stream whose peer is gone gets another one, and the card goes on.
func TestStreamIsRenewed(t *testing.T) {
	w, first := newStreamWorldOn(t, worldOptions{process: true})
	first.Close()
	w.hasEvent(t, "the stream ended")
	for round := range 3 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		far := os.NewFile(uintptr(pair[0]), "far")
		peer, err := net.FileConn(far)
		far.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		peer.SetDeadline(time.Now().Add(5 * time.Second))
		if err := w.k.Renew([]*os.File{os.NewFile(uintptr(pair[1]), "near")}); err != nil {
			t.Fatal(err)
		}
		f := to("192.0.2.1", byte(round))
		if _, err := peer.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(f))), f...)); err != nil {
			t.Fatal(err)
		}
		// A frame of the previous round may come again, if that pump was
		// killed before it had shown it as completed.
		same := func(got []byte) bool {
			if len(got) != len(f) || !bytes.Equal(got[:len(f)-1], f[:len(f)-1]) || got[len(f)-1] > byte(round) {
				t.Fatalf("round %d: %x came", round, got)
			}
			return bytes.Equal(got, f)
		}
		buf := make([]byte, fakecard.FrameMax)
		for n := 0; n == 0 || !same(buf[frame.HeaderLen:n]); {
			if n, err = w.card.Recv(buf); err != nil {
				t.Fatalf("to the card: %v", err)
			}
		}
		if err := w.card.Send(append(make([]byte, frame.HeaderLen), f...)); err != nil {
			t.Fatal(err)
		}
		for again := true; again; {
			again = !same(readFull(t, peer, streamHead+len(f))[streamHead:])
		}
		// The next pump repeats frames that were sent and not yet shown.
		if _, tx := w.card.Pair(0); tx.Flush() != nil {
			t.Fatal("the frame did not come back")
		}
	}
}
