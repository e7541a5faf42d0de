package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// halfClose checks that the answer to a half-closed connection arrives once: the server answers
// after the client has closed its half, and closes 0.2 s later. The passt of Debian 12 sends such
// an answer repeatedly.
func (h *host) halfClose(t *testing.T) {
	large := make([]byte, 1<<20)
	for i := range large {
		large[i] = byte(i>>12) ^ byte(i)
	}
	for _, answer := range [][]byte{[]byte("answer"), large} {
		for range 3 {
			h.askHalfClosed(t, answer)
		}
	}
}

func (h *host) askHalfClosed(t *testing.T, answer []byte) {
	t.Helper()
	var l net.Listener
	if err := inNetns(h.netns, func() (err error) { l, err = net.Listen("tcp4", insideAddr+":0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() { served <- answerOnce(l, answer) }()
	r, err := h.try(quick, []string{roleVariable + "=halfclose"}, "exec", "--", self, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if want := sumOf(answer); r.out != want {
		t.Errorf("an answer of %d bytes: got %s, want %s: %s", len(answer), r.out, want, r)
	}
	l.Close()
	if err := <-served; err != nil {
		t.Errorf("server: %v", err)
	}
}

func answerOnce(l net.Listener, answer []byte) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 64)); err != nil {
		return err
	}
	if _, err := c.Write(answer); err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond)
	return nil
}

func sumOf(b []byte) string { return fmt.Sprintf("%d bytes %x", len(b), sha256.Sum256(b)) }

// playHalfClose sends a question, closes its half of the connection, and prints what it receives
// until the end.
func playHalfClose(address string) error {
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "question"); err != nil {
		return err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	var got bytes.Buffer
	if _, err := io.Copy(&got, io.LimitReader(c, 4<<20)); err != nil {
		return fmt.Errorf("after %d bytes: %w", got.Len(), err)
	}
	_, err = io.WriteString(os.Stdout, sumOf(got.Bytes()))
	return err
}
