package passt

import (
	"context"
	"io"
	"net"
	"os"
	"time"
)

// resets is how many busy connections are reset.
const resets = 8

// resetCase resets connections that carry data in both directions. passt of
// Debian 12 may then spin: it uses CPU time and reads no frame. Only that is a
// fault here. A connection that fails beside a reset is the network's right.
func resetCase(ctx context.Context, side *cardSide, pid int, gauge *os.File) error {
	l, err := net.Listen("tcp4", testAddr+":0")
	if err != nil {
		return err
	}
	defer l.Close()
	go flood(l)
	ended := make(chan struct{})
	spun := make(chan bool, 1)
	go func() { spun <- watchPasst(pid, gauge, ended) }()
	for range resets {
		reset(ctx, side, l.Addr().String())
	}
	select {
	case spins := <-spun:
		if spins {
			return errSpins
		}
		return nil // passt has ended, and its user port starts another
	case <-time.After(passtRest):
		close(ended)
	}
	if <-spun {
		return errSpins
	}
	return nil
}

// reset opens a connection, and resets it once it is busy.
func reset(ctx context.Context, side *cardSide, addr string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := side.dial(ctx, addr)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	go func() { _, _ = io.Copy(conn, zeros{}) }()
	_, _ = io.CopyN(io.Discard, conn, 256<<10)
	_ = conn.SetLinger(0)
}

// flood answers each connection with data without end, and reads what comes.
func flood(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(testLimit))
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			_, _ = io.Copy(conn, zeros{})
		}()
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
