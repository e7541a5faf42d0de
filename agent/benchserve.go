package agent

import (
	"fmt"
	"io"
	"net"
)

// BenchServe is the far end of toe bench's traffic: on a TCP address of the
// link, for as long as standard input is open, it serves connections whose
// first byte says what for: 'i' takes everything in, 'o' gives out without
// end, 'e' gives each byte back.
func BenchServe(address string, in io.Reader, out io.Writer) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		io.Copy(io.Discard, in)
		l.Close()
	}()
	fmt.Fprintln(out, "ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return nil // the other side is done
		}
		go benchConn(c)
	}
}

// benchConn serves one connection until the other side ends it.
func benchConn(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 1<<20)
	if _, err := io.ReadFull(c, buf[:1]); err != nil {
		return
	}
	var err error
	for mode := buf[0]; err == nil; {
		switch mode {
		case 'i':
			_, err = c.Read(buf)
		case 'o':
			_, err = c.Write(buf)
		case 'e':
			if _, err = c.Read(buf[:1]); err == nil {
				_, err = c.Write(buf[:1])
			}
		default:
			return
		}
	}
}
