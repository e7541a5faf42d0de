package passt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/toe-project/toe/internal/child"
)

// The self-test runs a passt between two network namespaces, with the kernel's
// TCP on both sides, and compares what arrives with what was sent:
//
//	client ─ kernel TCP ─ TAP ─ relay ─ stream socket ─ passt ─ kernel TCP ─ server
//	└─────── namespace "card" ────────┘               └──── namespace "host" ─────┘
//
// Neither namespace leads anywhere. The cases are those in which versions of
// passt are known to move wrong data or to stop.

// testLimit bounds a case. A good passt takes 0.3 s for the longest.
const testLimit = 10 * time.Second

// testAddr is the server's address, from the range of RFC 2544.
const testAddr = "198.18.0.1"

// ErrFaulty: the program moves wrong data, or stops. A busy host is no reason
// for it, so the verdict holds until the program changes.
var ErrFaulty = errors.New("faulty")

// selfTest starts a passt and returns the first fault that it shows. The
// calling process must be in a network namespace of its own.
func selfTest(ctx context.Context, p Program) error {
	out, err := hostSide()
	if err != nil {
		return err
	}
	defer out.Close()
	ours, theirs, err := socketpair()
	if err != nil {
		return err
	}
	defer ours.Close()
	side, err := newCardSide()
	if err != nil {
		theirs.Close()
		return err
	}
	defer side.close()
	cmd := p.command(arguments(testMTU, outName, "", false)...)
	cmd.ExtraFiles = []*os.File{theirs}
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	err = child.Start(cmd)
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	go relay(side.tap, ours)
	err = cases(ctx, side, cmd.Process.Pid, ours)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil && !errors.Is(err, ErrFaulty) {
		err = fmt.Errorf("%w; it said: %q", err, bytes.TrimSpace(complaint.Bytes()))
	}
	return err
}

func cases(ctx context.Context, side *cardSide, pid int, gauge *os.File) error {
	large := make([]byte, 1<<20)
	for i := range large {
		large[i] = byte(i>>12) ^ byte(i)
	}
	for _, answer := range [][]byte{[]byte("answer"), large} {
		if err := halfClose(ctx, side, answer); err != nil {
			return fmt.Errorf("an answer of %d bytes to a half-closed connection: %w", len(answer), err)
		}
	}
	return resetCase(ctx, side, pid, gauge)
}

// halfClose has the server answer after the client has closed its half, and
// wait a moment before it closes its own. passt 0.0~git20230309 (Debian 12)
// then sends the answer again and again, with new sequence numbers.
func halfClose(ctx context.Context, side *cardSide, answer []byte) error {
	l, err := net.Listen("tcp4", testAddr+":0")
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- serve(l, answer) }()
	defer func() { l.Close(); <-served }()
	conn, err := side.dial(ctx, l.Addr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(testLimit))
	if _, err := conn.Write([]byte(question)); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	return compare(conn, answer)
}

const question = "question"

func serve(l net.Listener, answer []byte) error {
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(testLimit))
	if _, err := io.ReadFull(conn, make([]byte, len(question))); err != nil {
		return err
	}
	if _, err := conn.Write(answer); err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond)
	return nil
}

// compare reads to the end of the answer, and one byte more at most.
func compare(conn io.Reader, answer []byte) error {
	got, err := io.ReadAll(io.LimitReader(conn, int64(len(answer))+1))
	same := min(len(got), len(answer))
	switch {
	case !bytes.Equal(got[:same], answer[:same]):
		return fmt.Errorf("%w: it changes data on its way", ErrFaulty)
	case len(got) > len(answer):
		return fmt.Errorf("%w: it delivers more than was sent", ErrFaulty)
	case err != nil:
		return fmt.Errorf("after %d bytes: %w", len(got), err)
	case len(got) < len(answer):
		return fmt.Errorf("%w: it delivers %d bytes and then an end of file", ErrFaulty, len(got))
	}
	return nil
}
