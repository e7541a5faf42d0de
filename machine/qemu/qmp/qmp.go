// Package qmp is a small client of QEMU's machine protocol (QEMU: docs/interop/qmp-spec.rst): the
// handshake, commands without results, and the events that tell why a machine ended. All input is
// untrusted: lines are bounded, and unknown messages are skipped.
package qmp

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// MaxLine is the longest accepted line in bytes. QEMU's greeting has 200.
const MaxLine = 64 << 10

// Reasons of the SHUTDOWN event that toe tells apart (QEMU: qapi/run-state.json,
// ShutdownCause).
const (
	GuestShutdown = "guest-shutdown"
	GuestReset    = "guest-reset"
	GuestPanic    = "guest-panic"
	HostQuit      = "host-qmp-quit"
	HostSignal    = "host-signal"
)

// Client is one QMP connection. Its methods may be called from any goroutine.
type Client struct {
	conn net.Conn
	in   *bufio.Scanner

	mu     sync.Mutex
	reason string // of the last SHUTDOWN event; guarded by mu
	panic  bool   // a GUEST_PANICKED event was seen; guarded by mu
	done   chan struct{}
}

// message is a line from QEMU. One of its fields is set.
type message struct {
	Greeting *json.RawMessage `json:"QMP"`
	Return   *json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Reason string `json:"reason"`
	} `json:"data"`
}

// Handshake reads the greeting and leaves negotiation mode. It returns once QEMU has answered,
// which happens after it has made its devices and before the CPUs run. The client owns conn from
// the call on, and closes it on error.
func Handshake(conn net.Conn, deadline time.Time) (*Client, error) {
	c := &Client{conn: conn, in: bufio.NewScanner(conn), done: make(chan struct{})}
	c.in.Buffer(make([]byte, 0, 1024), MaxLine)
	if err := c.negotiate(deadline); err != nil {
		conn.Close()
		return nil, err
	}
	go c.listen()
	return c, nil
}

func (c *Client) negotiate(deadline time.Time) error {
	if err := c.conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("QMP: %w", err)
	}
	m, err := c.next()
	if err != nil {
		return fmt.Errorf("QMP: waiting for the greeting: %w", err)
	}
	if m.Greeting == nil {
		return errors.New("QMP: the first line is no greeting")
	}
	if err := c.send("qmp_capabilities"); err != nil {
		return err
	}
	for range 100 { // some events may precede the answer
		m, err := c.next()
		switch {
		case err != nil:
			return fmt.Errorf("QMP: waiting for the answer to qmp_capabilities: %w", err)
		case m.Error != nil:
			return fmt.Errorf("QMP: qmp_capabilities: %s: %s", m.Error.Class, m.Error.Desc)
		case m.Return != nil:
			_ = c.conn.SetDeadline(time.Time{}) // fails on a connection that listen will find ended
			return nil
		}
		c.note(m)
	}
	return errors.New("QMP: no answer to qmp_capabilities among 100 lines")
}

// next reads one line. A line that is not a JSON object is an error and ends the connection.
func (c *Client) next() (message, error) {
	var m message
	if !c.in.Scan() {
		if err := c.in.Err(); err != nil {
			return m, err
		}
		return m, io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(c.in.Bytes(), &m); err != nil {
		return m, fmt.Errorf("a line that is not QMP: %w", err)
	}
	return m, nil
}

func (c *Client) send(command string) error {
	line := fmt.Sprintf("{\"execute\":%q}\n", command)
	if _, err := io.WriteString(c.conn, line); err != nil {
		return fmt.Errorf("QMP: sending %s: %w", command, err)
	}
	return nil
}

func (c *Client) listen() {
	defer close(c.done)
	for {
		m, err := c.next()
		if err != nil {
			return
		}
		c.note(m)
	}
}

func (c *Client) note(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch m.Event {
	case "SHUTDOWN":
		c.reason = m.Data.Reason
	case "GUEST_PANICKED":
		c.panic = true
	}
}

// Reason returns the reason of the last SHUTDOWN event, or "" if there was none. After a
// GUEST_PANICKED event it returns GuestPanic.
func (c *Client) Reason() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.panic {
		return GuestPanic
	}
	return c.reason
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Quit asks QEMU to exit at once and does not wait for it.
func (c *Client) Quit() error {
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	return c.send("quit")
}

// Close closes the connection and waits for its goroutine.
func (c *Client) Close() {
	c.conn.Close()
	<-c.done
}
