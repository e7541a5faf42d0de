package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// place says where the two ends of a case are: on both sides of a card, or both on the loopback of
// one machine.
type place struct {
	name, near, far string
	addr            [2]string // of the server: IPv4, IPv6
}

// talk is one end of a connection in a case. It records what a program sees, without times and
// addresses.
type talk struct {
	place  place
	target string
	*net.TCPConn
	seen []string
}

// pause is long enough for all data in flight to arrive.
const pause = 400 * time.Millisecond

// caseLimit bounds a case. A case that hangs is ended and recorded.
const caseLimit = 15 * time.Second

func (p *talk) note(format string, args ...any) {
	p.seen = append(p.seen, fmt.Sprintf(format, args...))
}

func (p *talk) pause() { time.Sleep(pause) }

// errorName is what the program has in errno.
func errorName(err error) string {
	var number syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, io.EOF):
		return "end"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "hangs"
	case errors.As(err, &number):
		return unix.ErrnoName(number)
	}
	return err.Error()
}

// connect dials the destination of the case, and reports whether that worked.
func (p *talk) connect(port string) bool {
	d := net.Dialer{Timeout: caseLimit, KeepAlive: -1, Control: fewTries}
	ctx, cancel := context.WithTimeout(context.Background(), caseLimit)
	defer cancel()
	var c net.Conn
	err := inNetns(p.place.near, func() (err error) {
		c, err = d.DialContext(ctx, "tcp", net.JoinHostPort(p.target, port))
		return err
	})
	if errors.Is(err, unix.ECONNRESET) { // connected, and reset since: see broken
		p.note("connect: ok")
		p.note("ECONNRESET")
		return false
	}
	p.note("connect: %s", errorName(err))
	if err != nil {
		return false
	}
	p.TCPConn = c.(*net.TCPConn)
	_ = p.SetDeadline(time.Now().Add(caseLimit))
	return true
}

// fewTries shortens the time until a silent destination is an error: 1 + 2 s.
func fewTries(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_SYNCNT, 1)
	})
}

// send writes n bytes of noise.
func (p *talk) send(n int64, seed uint64) {
	_, err := io.CopyN(p.TCPConn, noise(seed), n)
	if err != nil {
		p.note("write: %s", errorName(err))
		return
	}
	p.note("wrote %d", n)
}

// small writes one byte n times, with pauses between.
func (p *talk) small(n int, between time.Duration) {
	for i := range n {
		if _, err := p.Write([]byte{byte(i)}); err != nil {
			p.note("write %d: %s", i, errorName(err))
			return
		}
		time.Sleep(between)
	}
	p.note("wrote %d times", n)
}

// sendUntilError writes until there is an error, and notes that.
func (p *talk) sendUntilError() {
	for range 50 {
		if _, err := p.Write([]byte("more")); err != nil {
			p.note("write: %s", errorName(err))
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.note("write: never an error")
}

// get reads n bytes and compares them with noise.
func (p *talk) get(n int64, seed uint64) {
	got := sum(io.LimitReader(p.TCPConn, n))
	if want := sum(io.LimitReader(noise(seed), n)); got != want {
		p.note("read other than the %d bytes that were sent", n)
		return
	}
	p.note("read %d", n)
}

// getAll reads to the end, which it notes.
func (p *talk) getAll() {
	text, err := io.ReadAll(p.TCPConn)
	p.note("read %d, sum %.8s, then %s", len(text), sum(strings.NewReader(string(text))), errorName(orEOF(err)))
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

func (p *talk) closeWrite() { p.note("shutdown: %s", errorName(p.CloseWrite())) }

func (p *talk) reset() {
	_ = p.SetLinger(0)
	_ = p.Close()
}

// slowly reads everything, starting late and in small pieces.
func (p *talk) slowly() {
	p.pause()
	h := newSum()
	buf := make([]byte, 256<<10)
	for {
		n, err := p.Read(buf)
		_, _ = h.Write(buf[:n])
		if err != nil {
			p.note("read sum %.8x, then %s", h.Sum(nil), errorName(err))
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// plug writes until all buffers are full, which are bounded. Then it writes the rest.
func (p *talk) plug(total int64, seed uint64) {
	h := newSum()
	from := io.TeeReader(io.LimitReader(noise(seed), total), h)
	_ = p.SetWriteDeadline(time.Now().Add(pause / 2))
	buf := make([]byte, 64<<10)
	stuck := false
	for {
		n, err := io.ReadFull(from, buf)
		if n == 0 {
			break
		}
		for at := 0; at < n; {
			k, werr := p.Write(buf[at:n])
			at += k
			if errors.Is(werr, os.ErrDeadlineExceeded) && !stuck {
				stuck = true
				_ = p.SetWriteDeadline(time.Now().Add(caseLimit))
				continue
			}
			if werr != nil {
				p.note("write: %s", errorName(werr))
				return
			}
		}
		if err != nil {
			break
		}
	}
	p.note("wrote %d, sum %.8x, with the reader asleep: %s", total, h.Sum(nil), map[bool]string{true: "blocked", false: "all taken"}[stuck])
}

// urgent sends bytes of which one is urgent.
func (p *talk) urgent() {
	raw, err := p.SyscallConn()
	if err != nil {
		p.note("%v", err)
		return
	}
	p.send(3, 1)
	_ = raw.Write(func(fd uintptr) bool {
		p.note("urgent: %s", errorName(unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil)))
		return true
	})
	p.pause()
	p.send(3, 2)
}

// inLine makes urgent data part of the stream, as RFC 6093 advises.
func (p *talk) inLine() {
	raw, err := p.SyscallConn()
	if err != nil {
		p.note("%v", err)
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) })
}

// scene is a case: what a client and a server do. A case without a server tests connect.
type scene struct {
	name   string
	to     [2]string // where no server is: addresses
	port   string
	late   bool // the server accepts late
	many   int  // connections at once; 0: one
	long   bool // it takes longer where the sizes are those of test/run full
	alone  bool // it depends on time, and does not run while others fill the wire
	client func(*talk)
	server func(*talk)
}

// show runs a case in a place and returns what both ends saw.
func (s scene) show(at place, family int) (string, error) {
	if s.many > 0 {
		return s.showMany(at, family)
	}
	near := &talk{place: at, target: at.addr[family]}
	if s.server == nil {
		if s.to[family] != "" {
			near.target = s.to[family]
		}
		if near.connect(s.port) {
			near.Close()
		}
		return near.line("client"), nil
	}
	var l net.Listener
	err := inNetns(at.far, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(at.addr[family], "0"))
		return err
	})
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	far := &talk{place: at}
	var both sync.WaitGroup
	both.Go(func() { s.serve(l, far) })
	if near.connect(port) {
		_ = near.SetDeadline(time.Now().Add(s.limit()))
		s.client(near)
		both.Wait()
		near.Close()
	} else {
		l.Close()
		both.Wait()
	}
	return near.line("client") + "\n" + far.line("server"), nil
}

func (s scene) serve(l net.Listener, p *talk) {
	if s.late {
		p.pause()
	}
	if c := s.accept(l, p); c != nil {
		defer c.Close()
		s.server(p)
	}
}

// limit ends a case that hangs.
func (s scene) limit() time.Duration {
	if s.long {
		return time.Duration(scale(1, 20)) * caseLimit
	}
	return caseLimit
}

func (p *talk) line(who string) string { return who + ": " + strings.Join(p.seen, "; ") }

// showAll runs cases, most of them at once: they mostly wait.
func showAll(t *testing.T, scenes []scene, at place, family int) map[string]string {
	t.Helper()
	var mu sync.Mutex
	seen := map[string]string{}
	var all sync.WaitGroup
	for _, alone := range []bool{false, true} {
		for _, s := range scenes {
			if s.alone != alone {
				continue
			}
			all.Go(func() {
				text, err := s.show(at, family)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("%s in %s: %v", s.name, at.name, err)
				}
				seen[s.name] = text
			})
		}
		all.Wait()
	}
	return seen
}
