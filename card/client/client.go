// Package client talks to the supervisor of a card, and reads what a supervisor
// left behind where none runs.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/internal/flock"
	"github.com/toe-project/toe/internal/tail"
)

// ErrNotRunning: the card has no supervisor. `toe up NAME` starts one.
var ErrNotRunning = errors.New("the card is not running")

// Client talks to the supervisor of a card. It holds no connection between calls.
type Client struct {
	card  *store.Card
	limit time.Duration // for an answer
}

// New prepares to talk to the card's supervisor. It sends nothing.
func New(c *store.Card) *Client {
	return &Client{card: c, limit: answerLimit}
}

func (cl *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := dial(ctx, cl.card, cl.card.Paths.Socket())
	if u, ok := conn.(*net.UnixConn); ok {
		return &fds.Stream{UnixConn: u}, nil
	}
	return conn, err
}

// Console joins the console of a running card: a stream of bytes both ways.
func Console(ctx context.Context, c *store.Card) (net.Conn, error) {
	return dial(ctx, c, c.Paths.ConsoleSock())
}

func dial(ctx context.Context, c *store.Card, socket string) (net.Conn, error) {
	if c.Paths.CheckSockets() != nil {
		return nil, fmt.Errorf("card %s: %w", c.Name, ErrNotRunning) // no socket can be there
	}
	err := c.Paths.Trusted()
	var conn net.Conn
	if err == nil {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "unix", socket)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("card %s: %w; `toe up %s` starts it", c.Name, ErrNotRunning, c.Name)
	}
	return conn, err
}

// answerLimit is how long a supervisor may take to answer. It gives itself 20 s for
// a status to change, and 30 s to apply a specification.
const answerLimit = 45 * time.Second

// call sends a request and decodes the answer, or the supervisor's refusal.
func (cl *Client) call(ctx context.Context, method, path string, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, cl.limit)
	defer cancel()
	resp, err := cl.send(ctx, method, path, body)
	if errors.Is(err, context.DeadlineExceeded) {
		pid, _, _ := flock.Owner(cl.card.Paths.Lock())
		return fmt.Errorf("card %s: its supervisor (pid %d) does not answer: %w; after `kill -9 %d`, `toe down %s` cleans up",
			cl.card.Name, pid, err, pid, cl.card.Name)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("card %s: answer of its supervisor to %s: %w", cl.card.Name, path, err)
	}
	return nil
}

// send sends a request on a connection of its own, which the answer's body
// closes.
func (cl *Client) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequest(method, "http://supervisor"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Close = true
	conn, err := cl.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	var resp *http.Response
	if err = req.Write(conn); err == nil {
		resp, err = http.ReadResponse(bufio.NewReader(conn), req)
	}
	if err == nil {
		resp.Body = &answerBody{resp.Body, conn, stop}
		return resp, cl.refusal(resp)
	}
	stop()
	conn.Close()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case hungUp(err):
		return nil, fmt.Errorf("card %s: its supervisor hung up: %w; see `toe status %s`",
			cl.card.Name, ErrNotRunning, cl.card.Name)
	}
	return nil, err
}

// answerBody is an answer's body and its connection, which ends with ctx.
type answerBody struct {
	io.ReadCloser
	conn net.Conn
	stop func() bool
}

func (b *answerBody) Close() error {
	b.stop()
	return errors.Join(b.ReadCloser.Close(), b.conn.Close())
}

// hungUp reports whether the other end died before it answered: a process that
// is being killed may still accept a connection, and resets it.
func hungUp(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// refusal returns the error in an answer, and closes the answer's body.
func (cl *Client) refusal(resp *http.Response) error {
	if resp.StatusCode < 300 {
		return nil
	}
	defer resp.Body.Close()
	var p status.Problem
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&p); err != nil || p.Error == "" {
		if resp.StatusCode == http.StatusNotFound {
			return cl.otherVersion()
		}
		return fmt.Errorf("card %s: its supervisor says %s", cl.card.Name, resp.Status)
	}
	return errors.New(tail.Visible(p.Error, "\n\t")) // the card's own words may be in it
}

// otherVersion is the error for a supervisor that does not know what it is asked.
func (cl *Client) otherVersion() error {
	const text = "card %s: its supervisor is of another version of toe; fix: `toe down %s` and `toe up %[1]s`"
	return fmt.Errorf(text, cl.card.Name, cl.card.Name)
}

// Status asks how the card is, once its Sequence is above after (0: at once).
// Its error is ErrNotRunning where there is no supervisor.
func (cl *Client) Status(ctx context.Context, after uint64) (status.Status, error) {
	var st status.Status
	path := "/status"
	if after > 0 {
		path += "?after=" + strconv.FormatUint(after, 10)
	}
	err := cl.call(ctx, http.MethodGet, path, nil, &st)
	return st, err
}

// Down asks for the end and waits until the supervisor is gone.
func (cl *Client) Down(ctx context.Context) error {
	if err := cl.call(ctx, http.MethodPost, "/down", nil, &struct{}{}); err != nil {
		return err
	}
	return AwaitEnd(ctx, cl.card)
}

// Reset starts the card's machine again.
func (cl *Client) Reset(ctx context.Context) error {
	return cl.call(ctx, http.MethodPost, "/reset", nil, &struct{}{})
}

// FactoryReset has the data of the card's flash cleared, and the card started again.
func (cl *Client) FactoryReset(ctx context.Context, who string) error {
	query := url.Values{"factory": {"1"}, "who": {who}}.Encode()
	return cl.call(ctx, http.MethodPost, "/reset?"+query, nil, &struct{}{})
}

// Rollback has the card started from a slot of its flash, the other one if slot is empty, and returns
// which.
func (cl *Client) Rollback(ctx context.Context, who, slot string) (string, error) {
	var to status.Rollback
	err := cl.call(ctx, http.MethodPost, "/rollback?"+url.Values{"who": {who}, "slot": {slot}}.Encode(), nil, &to)
	return to.Slot, err
}

// Renew has a card without a flash started with the newest image of the cache.
func (cl *Client) Renew(ctx context.Context, who string) (r status.Renewed, err error) {
	err = cl.call(ctx, http.MethodPost, "/renew?"+url.Values{"who": {who}}.Encode(), nil, &r)
	return r, err
}

// Apply gives a running card a new specification, and returns the changes.
// spec.Diff tells beforehand whether a running card can take it.
func (cl *Client) Apply(ctx context.Context, spec spec.Spec) ([]string, error) {
	patient := *cl
	patient.limit = max(cl.limit, status.ServicesLimit+answerLimit)
	a, err := patient.apply(ctx, "/apply", spec)
	return a.Changes, err
}

// Diff returns how Apply would change the files of the card's services.
func (cl *Client) Diff(ctx context.Context, spec spec.Spec) (string, error) {
	a, err := cl.apply(ctx, "/apply?dry=1", spec)
	return a.Diff, err
}

func (cl *Client) apply(ctx context.Context, path string, spec spec.Spec) (a status.Applied, err error) {
	data, err := spec.YAML()
	if err == nil {
		err = cl.call(ctx, http.MethodPost, path, data, &a)
	}
	return a, err
}

// Logs calls f for each line of the card's log, until there are no more.
func (cl *Client) Logs(ctx context.Context, follow bool, tail uint32, f func(status.LogLine)) error {
	path := "/logs?tail=" + strconv.FormatUint(uint64(tail), 10)
	if follow {
		path += "&follow=1"
	}
	resp, err := cl.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var line status.LogLine
		if err := dec.Decode(&line); err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("card %s: the log broke off: %w", cl.card.Name, err)
		}
		f(line)
	}
}

// Dial opens a TCP connection to a port of the card, over its link.
func (cl *Client) Dial(ctx context.Context, port int) (net.Conn, error) {
	conn, err := cl.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	const request = "GET /dial?port=%d HTTP/1.1\r\nHost: supervisor\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
	_, err = fmt.Fprintf(conn, request, port)
	if err != nil {
		conn.Close()
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("card %s: its supervisor hung up: %w", cl.card.Name, err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		defer conn.Close()
		return nil, cl.refusal(resp)
	}
	if !stop() { // the deadline is in force
		conn.Close()
		return nil, context.Cause(ctx)
	}
	return &buffered{conn, r}, nil
}

// buffered is a connection of which r has read some bytes.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b *buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// Exec asks for what toe exec has to know, and for the descriptors of the
// network namespace and, without root, of the user namespace: none depends on a
// process id, which may be another's by the time that it is used.
func (cl *Client) Exec(ctx context.Context) (e status.Exec, namespaces []*os.File, err error) {
	ctx, cancel := context.WithTimeout(ctx, cl.limit)
	defer cancel()
	resp, err := cl.send(ctx, http.MethodGet, "/exec", nil)
	if err != nil {
		return e, nil, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
		return e, nil, fmt.Errorf("card %s: answer of its supervisor to /exec: %w", cl.card.Name, err)
	}
	if s, ok := resp.Body.(*answerBody).conn.(*fds.Stream); ok {
		namespaces = s.Take()
	}
	if len(namespaces) == 0 || len(namespaces) > 2 {
		fds.CloseAll(namespaces)
		return e, nil, cl.otherVersion()
	}
	return e, namespaces, nil
}
