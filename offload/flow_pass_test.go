package offload

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/loop"
	"github.com/toe-project/toe/offload/ring"
)

// TestFlowsOverEpoll runs the tests of flows with a loop that has no ring, as on a kernel without
// io_uring.
func TestFlowsOverEpoll(t *testing.T) {
	makeLoop = loop.NewEpoll
	defer func() { makeLoop = loop.New }()
	for name, test := range map[string]func(*testing.T){
		"half-close":          TestFlowHalfClose,
		"reset":               TestFlowResetArrivesAsReset,
		"before a reset":      TestFlowDeliversWhatCameBeforeAReset,
		"reset after the end": TestFlowNoticesAResetAfterTheEnd,
		"back-pressure":       TestFlowBackPressure,
		"at rest":             TestFlowAtRestNeedsNoPipe,
		"does not wait":       TestFlowDoesNotWaitForMore,
		"urgent":              TestFlowUrgent,
		"urgent after small":  TestFlowUrgentAmongSmallMessages,
		"full socket":         TestFlowKeepsWhatDoesNotFit,
		"does not spin":       TestFlowDoesNotSpin,
	} {
		t.Run(name, test)
	}
}

// needRing skips a test where the kernel has no ring: the loop then uses epoll, which other tests
// cover.
func needRing(t *testing.T) {
	t.Helper()
	r, err := ring.New()
	if err != nil {
		for _, e := range []error{unix.ENOSYS, unix.EPERM, unix.EINVAL, unix.EOPNOTSUPP} {
			if errors.Is(err, e) {
				t.Skip(err)
			}
		}
		t.Fatal(err)
	}
	r.Close()
}

// Small messages do not pass through pipes where there is a ring.
func TestFlowPassesSmallMessagesInTheRing(t *testing.T) {
	needRing(t)
	j := newFlow(t)
	for range 20 {
		passes(t, j.host, j.wire, []byte("hello"))
		passes(t, j.wire, j.host, []byte("world!"))
	}
	if s := j.stats(); s.FromHost != 100 || s.ToHost != 120 {
		t.Errorf("%d bytes from the host and %d to it are counted, want 100 and 120", s.FromHost, s.ToHost)
	}
	j.tcp.loop.Do(func() {
		if n := len(j.tcp.pipes.spare); n != 0 {
			t.Errorf("%d pipes were made", n)
		}
	})
}

func passes(t *testing.T, from, to net.Conn, message []byte) {
	t.Helper()
	if _, err := from.Write(message); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(message))
	if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, message) {
		t.Fatalf("got %q and %v, want %q", got, err, message)
	}
}

// An urgent byte stays urgent between small messages, in any position.
func TestFlowUrgentAmongSmallMessages(t *testing.T) {
	both(t, func(t *testing.T, j joined, from, to *net.TCPConn) {
		for range 50 {
			passes(t, from, to, []byte("hello"))
			if err := sendUrgent(from, '!'); err != nil {
				t.Fatal(err)
			}
			if _, err := from.Write([]byte("world")); err != nil {
				t.Fatal(err)
			}
			if b, err := readUrgent(to); err != nil || b != '!' {
				t.Fatalf("urgent byte %q, %v", b, err)
			}
			got := make([]byte, 5)
			if _, err := io.ReadFull(to, got); err != nil || string(got) != "world" {
				t.Fatalf("after the urgent byte: %q, %v", got, err)
			}
			passes(t, to, from, []byte("answer"))
		}
	})
}

// readUrgent waits for an urgent byte.
func readUrgent(c *net.TCPConn) (byte, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var b [1]byte
	var failed error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		err = raw.Control(func(fd uintptr) { _, _, failed = unix.Recvfrom(int(fd), b[:], unix.MSG_OOB) })
		if err != nil || failed == nil { // EINVAL: none yet
			break
		}
	}
	return b[0], errors.Join(err, failed)
}

// Small messages to a reader that sleeps fill its socket; everything arrives in order when it reads.
func TestFlowKeepsWhatDoesNotFit(t *testing.T) {
	both(t, func(t *testing.T, j joined, from, to *net.TCPConn) {
		const size = 1000
		message := make([]byte, size)
		sent := 0
		_ = from.SetWriteDeadline(time.Now().Add(time.Second))
		for ; sent < 200_000; sent++ {
			for i := range message {
				message[i] = byte(sent + i)
			}
			n, err := from.Write(message)
			if err != nil {
				message = message[:n] // of the last one
				break
			}
		}
		if len(message) == size {
			t.Fatalf("%d messages of %d bytes fit nowhere", sent, size)
		}
		if err := from.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(to)
		if want := sent*size + len(message); err != nil || len(got) != want {
			t.Fatalf("%d bytes and %v, want %d", len(got), err, want)
		}
		for i, b := range got {
			if want := byte(i/size + i%size); b != want {
				t.Fatalf("byte %d is %d, want %d", i, b, want)
			}
		}
	})
}
