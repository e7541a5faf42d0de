package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stream is a TCP connection to the world's echo that is never idle: each message is a number, sent
// when the previous one came back.
type stream struct {
	conn net.Conn
	done chan error
	at   atomic.Uint64
	quit atomic.Bool
}

func startStream(t *testing.T, netns string) *stream {
	t.Helper()
	c, err := dialIn(netns, "tcp", net.JoinHostPort(worldAddr, "7"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	// A router that restarted does not know a connection until the host sends a segment, and it
	// drops the world's answers. The host may have nothing to send: its data has been acknowledged.
	alive := net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 60}
	if err := c.(*net.TCPConn).SetKeepAliveConfig(alive); err != nil {
		t.Fatal(err)
	}
	s := &stream{conn: c, done: make(chan error, 1)}
	go func() { s.done <- s.talk() }()
	t.Cleanup(func() { c.Close() })
	return s
}

// talk sends 32 KiB at a time, so that segments of many packets are in flight.
func (s *stream) talk() error {
	out, in := make([]byte, 32<<10), make([]byte, 32<<10)
	for n := uint64(1); !s.quit.Load(); n++ {
		binary.BigEndian.PutUint64(out, n)
		if _, err := s.conn.Write(out); err != nil {
			return err
		}
		if _, err := io.ReadFull(s.conn, in); err != nil {
			return err
		}
		if got := binary.BigEndian.Uint64(in); got != n {
			return fmt.Errorf("message %d came back as %d", n, got)
		}
		s.at.Store(n)
	}
	return nil
}

// finish closes the connection between two messages, with nothing in flight.
func (s *stream) finish(t *testing.T) {
	t.Helper()
	s.quit.Store(true)
	select {
	case err := <-s.done:
		if err != nil {
			t.Errorf("the TCP connection broke after %d messages: %v", s.at.Load(), err)
		}
	case <-time.After(5 * time.Second):
		t.Errorf("the TCP connection stands still after %d messages", s.at.Load())
	}
}

// breaks expects an error: the other half of the connection was lost.
func (s *stream) breaks(t *testing.T) {
	t.Helper()
	select {
	case err := <-s.done:
		if !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("a busy connection ended after %d messages with: %v; want that it was aborted or reset", s.at.Load(), err)
		}
	case <-time.After(abortLimit):
		t.Errorf("a busy connection hangs after %d messages, for %s", s.at.Load(), abortLimit)
	}
}

// moves waits until the connection carries more than it has so far.
func (s *stream) moves(t *testing.T, limit time.Duration) time.Duration {
	t.Helper()
	from := s.at.Load()
	return until(t, limit, "the TCP connection to go on", func() error {
		select {
		case err := <-s.done:
			s.done <- err
			t.Fatalf("the TCP connection broke after %d messages: %v", s.at.Load(), err)
		default:
		}
		if s.at.Load() < from+3 {
			return fmt.Errorf("%d messages, as before", s.at.Load())
		}
		return nil
	})
}

// probe sends a small datagram to the world's echo every few milliseconds and
// notes when answers come.
type probe struct {
	conn net.Conn
	quit chan struct{}
	last atomic.Int64 // when the newest answer came, in ns since 1970
	gap  atomic.Int64 // the longest time between two answers, in ns
}

const probeEvery = 5 * time.Millisecond

func startProbe(t *testing.T, netns string) *probe {
	t.Helper()
	return startProbeTo(t, netns, worldAddr)
}

func startProbeTo(t *testing.T, netns, address string) *probe {
	t.Helper()
	c, err := dialIn(netns, "udp", net.JoinHostPort(address, "7"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	p := &probe{conn: c, quit: make(chan struct{})}
	go p.send()
	go p.receive()
	t.Cleanup(func() { close(p.quit); c.Close() })
	p.answers(t, 5*time.Second)
	return p
}

func (p *probe) send() {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.quit:
			return
		case <-tick.C:
			_, _ = p.conn.Write([]byte("probe")) // lost ones are the point
		}
	}
}

func (p *probe) receive() {
	buf := make([]byte, 64)
	for {
		if _, err := p.conn.Read(buf); errors.Is(err, net.ErrClosed) {
			return
		} else if err != nil {
			continue // an ICMP error while the other side is away
		}
		now := time.Now().UnixNano()
		if before := p.last.Swap(now); before != 0 && now-before > p.gap.Load() {
			p.gap.Store(now - before)
		}
	}
}

// answers waits for an answer to a probe that is sent from now on.
func (p *probe) answers(t *testing.T, limit time.Duration) {
	t.Helper()
	// An answer in flight may still arrive at first.
	since := time.Now().Add(2 * probeEvery).UnixNano()
	until(t, limit, "packets to come back from the world", func() error {
		if p.last.Load() < since {
			return errors.New("none yet")
		}
		return nil
	})
}

// knock connects to the world's echo again and again, and notes the longest time without success.
type knock struct {
	quit    context.CancelFunc
	longest chan time.Duration
}

// knockLimit is for one connection: on a quiet host it takes milliseconds.
const knockLimit = time.Second

func startKnock(t *testing.T, netns string) *knock {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	k := &knock{quit: cancel, longest: make(chan time.Duration, 1)}
	go func() {
		var longest time.Duration
		for last := time.Now(); ; {
			select {
			case <-ctx.Done():
				k.longest <- longest
				return
			case <-time.After(2 * probeEvery):
			}
			if tryEcho(netns) == nil {
				longest, last = max(longest, time.Since(last)), time.Now()
			}
		}
	}()
	return k
}

// tryEcho connects, and waits for the echo of a byte.
func tryEcho(netns string) error {
	c, err := dialIn(netns, "tcp", net.JoinHostPort(worldAddr, "7"), knockLimit)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(knockLimit))
	if _, err := c.Write([]byte{1}); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// gap ends it and returns the longest time.
func (k *knock) gap(t *testing.T) time.Duration {
	t.Helper()
	k.quit()
	return <-k.longest
}
