package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

const (
	patience = 60 // seconds without a byte from the card while it is asked something
	grace    = 5  // seconds for tidying up after an interruption
)

// Card is the card's side. It holds one sftp session.
type Card struct {
	*sftp.Client
	in    *meter
	close func()
	list  int64 // bytes that the list of one directory may have
	once  sync.Once
	lost  atomic.Pointer[error] // why the session was closed
}

// Open begins an sftp session. It ends with ctx, some seconds later, or with Close.
func Open(ctx context.Context, conn *ssh.Client) (*Card, error) {
	session, err := conn.NewSession()
	if err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	out, err := session.StdinPipe()
	if err == nil {
		var in io.Reader
		if in, err = session.StdoutPipe(); err == nil {
			if err = session.RequestSubsystem("sftp"); err != nil {
				err = fmt.Errorf("sftp: %w; the card's firmware may be older than `toe cp`: `toe firmware build` makes a new one", err)
			} else {
				return open(ctx, in, out, func() { session.Close(); conn.Close() })
			}
		}
	}
	session.Close()
	return nil, err
}

// open begins a session over a pipe. Closing must end a read of in.
func open(ctx context.Context, in io.Reader, out io.WriteCloser, closing func()) (*Card, error) {
	c := &Card{in: &meter{r: in}, list: maxList, close: closing}
	done := make(chan struct{})
	go c.watch(ctx, done)
	client, err := sftp.NewClientPipe(c.in, out, sftp.UseConcurrentWrites(true))
	if err != nil {
		close(done)
		c.once.Do(c.close)
		return nil, c.cause(fmt.Errorf("sftp: %w", err))
	}
	c.Client = client
	c.close = func() { close(done); closing() }
	return c, nil
}

// Close ends the session.
func (c *Card) Close() { c.once.Do(c.close) }

// watch closes the session when the card has said nothing for too long. It counts turns, not
// time: a process that was stopped is not late.
func (c *Card) watch(ctx context.Context, done <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var seen int64
	for quiet, ending := 0, 0; ; {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if n := c.in.total.Load(); n != seen {
			seen, quiet = n, 0
		} else {
			quiet++
		}
		if ctx.Err() != nil {
			ending++
		}
		switch {
		case ending > grace:
			c.abandon(ctx.Err())
			return
		case quiet > patience:
			c.abandon(fmt.Errorf("the card has not answered for %d s", patience))
			return
		}
	}
}

func (c *Card) abandon(why error) {
	c.lost.CompareAndSwap(nil, &why)
	c.once.Do(c.close)
}

// cause is why the session was closed, if it was; else err.
func (c *Card) cause(err error) error {
	if why := c.lost.Load(); why != nil && err != nil {
		return *why
	}
	if why := c.in.over.Load(); why && err != nil {
		return errors.New("the card's answer is larger than any directory's list")
	}
	return err
}

// broken reports whether nothing more can be copied.
func (c *Card) broken(err error) bool {
	return c.lost.Load() != nil || c.in.over.Load() || errors.Is(err, sftp.ErrSSHFxConnectionLost) ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, io.ErrUnexpectedEOF)
}

// meter counts what the card sends, and ends its stream at a bound.
type meter struct {
	r     io.Reader
	total atomic.Int64
	bound atomic.Int64 // of total; 0 for none
	over  atomic.Bool
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	total := m.total.Add(int64(n))
	if bound := m.bound.Load(); bound > 0 && total > bound {
		m.over.Store(true)
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// within bounds what the card may send while f runs. It is for one request at a time.
func (m *meter) within(n int64, f func() error) error {
	m.bound.Store(m.total.Load() + n)
	defer m.bound.Store(0)
	return f()
}
