package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// The world is what the card's port leads to: a network namespace with a
// server. These are its addresses (RFC 5737 and 1918).
const (
	worldPort      = 5401 // the first of worldPorts
	worldPorts     = 4    // one a way, so that leftover connections of one are not in another
	worldAddr      = "192.0.2.1"
	worldCardAddr  = "192.0.2.2" // of the card's port
	worldBits      = 24
	tunnelWorld    = "10.99.0.1" // the same server, behind WireGuard
	tunnelCard     = "10.99.0.2"
	tunnelHost     = "10.99.0.3"
	tunnelPort     = 51820
	tunnelMTU      = 1420
	conventional   = "198.51.100.1" // the host's end of a conventional device
	conventionalTo = "198.51.100.2" // the card's
)

// What a request and its answer hold, in bytes.
const (
	requestSize = 128
	answerSize  = 1024
)

// worldServe is the server of the world, for as long as standard input is
// open. Its first line there is a tunnel as JSON. The first byte of a
// connection says what for:
//
//	'i'  takes everything in, and answers the end with the number of bytes in
//	     8, big-endian
//	'o'  gives out without end
//	'q'  answers requests, one after the other
//	'c'  answers one request and ends the connection
//	'h'  holds it
func worldServe(in io.Reader, out io.Writer) error {
	stop, rest, err := tunnelFrom(in)
	if err != nil {
		return err
	}
	defer stop()
	if err := manyFiles(); err != nil {
		return err
	}
	for i := range worldPorts {
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", worldPort+i))
		if err != nil {
			return err
		}
		defer l.Close()
		go worldAccept(l)
	}
	fmt.Fprintln(out, "ready")
	_, _ = io.Copy(io.Discard, rest) // until the parent closes it
	return nil
}

func worldAccept(l net.Listener) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // no descriptor left: wait until other connections end
			continue
		}
		go worldConn(c.(*net.TCPConn))
	}
}

func worldConn(c *net.TCPConn) {
	defer c.Close()
	small := make([]byte, answerSize)
	if _, err := io.ReadFull(c, small[:1]); err != nil {
		return
	}
	switch small[0] {
	case 'i':
		worldTake(c)
	case 'o':
		buf := make([]byte, 1<<20)
		for err := error(nil); err == nil; {
			_, err = c.Write(buf)
		}
	case 'q':
		for worldAnswer(c, small) == nil {
		}
	case 'c':
		_ = worldAnswer(c, small)
	case 'h':
		_, _ = c.Read(small)
	}
}

func worldTake(c *net.TCPConn) {
	buf := make([]byte, 1<<20)
	sum := uint64(0)
	for {
		n, err := c.Read(buf)
		sum += uint64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return
		}
	}
	_, _ = c.Write(binary.BigEndian.AppendUint64(nil, sum))
}

func worldAnswer(c *net.TCPConn, buf []byte) error {
	if _, err := io.ReadFull(c, buf[:requestSize]); err != nil {
		return err
	}
	_, err := c.Write(buf[:answerSize])
	return err
}

// manyFiles allows as many connections as the caller may have.
func manyFiles() error {
	var have unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &have)
	if err == nil {
		have.Cur = have.Max
		err = unix.Setrlimit(unix.RLIMIT_NOFILE, &have)
	}
	if err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	return nil
}
