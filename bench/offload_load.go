package bench

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// loadOrder is an order to the traffic program of the host, a line of JSON.
type loadOrder struct {
	What    string        `json:"what"` // send, receive, sendfile, requests, connections, open or close
	Address string        `json:"address,omitempty"`
	Workers int           `json:"workers,omitempty"` // connections at once
	Length  time.Duration `json:"length,omitempty"`
	File    string        `json:"file,omitempty"`  // for sendfile
	Count   int           `json:"count,omitempty"` // for open
}

// loadDone is its answer, a line of JSON.
type loadDone struct {
	Bytes   float64 `json:"bytes,omitempty"` // that arrived
	Count   float64 `json:"count,omitempty"` // of requests or connections
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

// loader is the traffic program of the host.
type loader struct {
	held []net.Conn
}

// loadServe executes orders until standard input ends.
func loadServe(in io.Reader, out io.Writer) error {
	if err := manyFiles(); err != nil {
		return err
	}
	l, lines := &loader{}, bufio.NewScanner(in)
	for lines.Scan() {
		var order loadOrder
		if err := json.Unmarshal(lines.Bytes(), &order); err != nil {
			return fmt.Errorf("order %.80q: %w", lines.Text(), err)
		}
		done, err := l.do(order)
		if err != nil {
			done.Error = err.Error()
		}
		if err := json.NewEncoder(out).Encode(done); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (l *loader) do(o loadOrder) (loadDone, error) {
	switch o.What {
	case "open":
		return l.open(o)
	case "close":
		for _, c := range l.held {
			c.Close()
		}
		l.held = nil
		return loadDone{}, nil
	}
	works := map[string]func(loadOrder, time.Time, *loadDone) error{
		"send": loadSend, "receive": loadReceive, "sendfile": loadSendfile,
		"requests": loadRequests, "connections": loadConnections,
	}
	work := works[o.What]
	if work == nil {
		return loadDone{}, fmt.Errorf("no load is called %q", o.What)
	}
	return together(o, work)
}

// together runs work in several workers and adds up their results.
func together(o loadOrder, work func(loadOrder, time.Time, *loadDone) error) (sum loadDone, err error) {
	start := time.Now()
	done, errs := make([]loadDone, o.Workers), make([]error, o.Workers)
	var wait sync.WaitGroup
	for i := range o.Workers {
		wait.Go(func() { errs[i] = work(o, start.Add(o.Length), &done[i]) })
	}
	wait.Wait()
	for _, d := range done {
		sum.Bytes += d.Bytes
		sum.Count += d.Count
	}
	sum.Seconds = time.Since(start).Seconds()
	return sum, errors.Join(errs...)
}

// dialWorld opens a connection for a purpose.
func dialWorld(address string, purpose byte) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp4", address, 10*time.Second)
	if err != nil {
		return nil, err
	}
	if _, err := c.Write([]byte{purpose}); err != nil {
		c.Close()
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// drainTime is the maximum time for sent data to arrive.
const drainTime = 30 * time.Second

// arrived closes a connection's sending half and asks the world how much has arrived.
func arrived(c *net.TCPConn, done *loadDone) error {
	if err := c.CloseWrite(); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(drainTime))
	var n [8]byte
	if _, err := io.ReadFull(c, n[:]); err != nil {
		return fmt.Errorf("the world's count of bytes: %w", err)
	}
	done.Bytes = float64(binary.BigEndian.Uint64(n[:]))
	return nil
}

func loadSend(o loadOrder, end time.Time, done *loadDone) error {
	c, err := dialWorld(o.Address, 'i')
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetWriteDeadline(end.Add(drainTime))
	buf := make([]byte, 256<<10)
	for time.Now().Before(end) {
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
	return arrived(c, done)
}

// loadSendfile sends a file repeatedly: Go's copy of a file to a TCP connection is sendfile(2).
func loadSendfile(o loadOrder, end time.Time, done *loadDone) error {
	f, err := os.Open(o.File)
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := dialWorld(o.Address, 'i')
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetWriteDeadline(end.Add(drainTime))
	const piece = 1 << 20
	for time.Now().Before(end) {
		n, err := io.CopyN(c, f, piece)
		if n < piece && err == io.EOF {
			_, err = f.Seek(0, io.SeekStart)
		}
		if err != nil {
			return err
		}
	}
	return arrived(c, done)
}

func loadReceive(o loadOrder, end time.Time, done *loadDone) error {
	c, err := dialWorld(o.Address, 'o')
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetReadDeadline(end)
	buf := make([]byte, 256<<10)
	for {
		n, err := c.Read(buf)
		done.Bytes += float64(n)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func loadRequests(o loadOrder, end time.Time, done *loadDone) error {
	c, err := dialWorld(o.Address, 'q')
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(end.Add(drainTime))
	buf := make([]byte, answerSize)
	for done.Count == 0 || time.Now().Before(end) { // at least one, even after the end
		if err := request(c, buf); err != nil {
			return err
		}
		done.Count++
	}
	return nil
}

func request(c *net.TCPConn, buf []byte) error {
	if _, err := c.Write(buf[:requestSize]); err != nil {
		return err
	}
	_, err := io.ReadFull(c, buf[:answerSize])
	return err
}

// loadConnections opens a connection for each request. The world closes first, so the TIME-WAIT
// state is the world's (RFC 9293, 3.6).
func loadConnections(o loadOrder, end time.Time, done *loadDone) error {
	buf := make([]byte, answerSize)
	for done.Count == 0 || time.Now().Before(end) {
		if err := oneRequest(o.Address, end, buf); err != nil {
			return fmt.Errorf("connection %.0f: %w", done.Count, err)
		}
		done.Count++
	}
	return nil
}

func oneRequest(address string, end time.Time, buf []byte) error {
	d := net.Dialer{Deadline: end.Add(drainTime)}
	conn, err := d.Dial("tcp4", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(end.Add(drainTime))
	c := conn.(*net.TCPConn)
	// The purpose goes in one segment with the request.
	if _, err := c.Write(append([]byte{'c'}, buf[:requestSize]...)); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, buf[:answerSize]); err != nil {
		return err
	}
	if _, err := c.Read(buf[:1]); err != io.EOF {
		return fmt.Errorf("after the answer: %v, want its end", err)
	}
	return nil
}

// open makes connections that stay until the order to close.
func (l *loader) open(o loadOrder) (loadDone, error) {
	var left atomic.Int64
	left.Store(int64(o.Count))
	conns := make([][]net.Conn, o.Workers)
	start := time.Now()
	errs := make([]error, o.Workers)
	var wait sync.WaitGroup
	for i := range o.Workers {
		wait.Go(func() {
			for left.Add(-1) >= 0 && errs[i] == nil {
				var c *net.TCPConn
				if c, errs[i] = dialWorld(o.Address, 'h'); errs[i] == nil {
					conns[i] = append(conns[i], c)
				}
			}
		})
	}
	wait.Wait()
	took := time.Since(start).Seconds()
	n := 0
	for _, list := range conns {
		l.held = append(l.held, list...)
		n += len(list)
	}
	return loadDone{Count: float64(n), Seconds: took}, errors.Join(errs...)
}
