package update

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/toe-project/toe/control"
)

// An offer serves one file to the card, read-only, over connections that the host opens: on them the
// card asks and the host answers (control.OfferPath). So the host listens nowhere. A connection that
// breaks is opened again.
type offer struct {
	dial   control.DialFunc
	tls    *tls.Config
	file   *os.File
	size   int64
	sent   atomic.Int64 // bytes of the file
	broken atomic.Int64 // connections that broke
	server *http.Server
	turned *turned
	tasks  sync.WaitGroup
}

// reopenPause is the time between two attempts to connect.
const reopenPause = 200 * time.Millisecond

// newOffer begins to offer the file at path, until ctx ends or close.
func newOffer(ctx context.Context, path string, keys control.Keys, dial control.DialFunc) (*offer, error) {
	conf, err := control.ClientTLS(keys)
	if err != nil {
		return nil, err
	}
	conf.NextProtos = []string{"http/1.1"}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() == 0) {
		err = fmt.Errorf("bundle %s: want a regular file that is not empty", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	o := &offer{dial: dial, tls: conf, file: f, size: info.Size(), turned: newTurned()}
	o.server = &http.Server{
		Handler: http.HandlerFunc(o.serve), Protocols: h2c, ReadHeaderTimeout: 5 * time.Second,
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
	}
	o.tasks.Go(func() { _ = o.server.Serve(o.turned) })
	o.tasks.Go(func() { o.keepOpen(ctx) })
	return o, nil
}

func (o *offer) close() {
	_ = o.server.Close() // closes turned, too
	o.tasks.Wait()
	_ = o.file.Close()
}

// serve answers the card. Each request has a position of its own in the file.
func (o *offer) serve(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || r.URL.Path != "/" {
		http.Error(w, "want GET /", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(counted{w, &o.sent}, r, "", time.Time{}, io.NewSectionReader(o.file, 0, o.size))
}

type counted struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.n.Add(int64(n))
	return n, err
}

// keepOpen opens a connection, and another one when that has ended.
func (o *offer) keepOpen(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := o.open(ctx)
		if err == nil {
			ended := make(chan struct{})
			if !o.turned.give(&watched{Conn: conn, ended: ended}) {
				conn.Close()
				return
			}
			select {
			case <-ended:
				o.broken.Add(1)
			case <-ctx.Done():
				return
			case <-o.turned.closed:
				return
			}
		}
		select {
		case <-time.After(reopenPause):
		case <-ctx.Done():
		case <-o.turned.closed:
			return
		}
	}
}

// open connects to the card and turns the connection around.
func (o *offer) open(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	raw, err := o.dial(ctx, "tcp", "")
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	conn := tls.Client(raw, o.tls)
	turned, err := turn(ctx, conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("offering a file to the card: %w", err)
	}
	return turned, nil
}

func turn(ctx context.Context, conn *tls.Conn) (net.Conn, error) {
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	_, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: card\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n",
		control.OfferPath, control.OfferProtocol)
	if err != nil {
		return nil, err
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil, errors.New("the card's agent is of a version that installs no bundles")
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("the card answers %d", resp.StatusCode)
	}
	return &read{Conn: conn, r: r}, nil
}

// read is a connection of which r has read some bytes.
type read struct {
	net.Conn
	r *bufio.Reader
}

func (c *read) Read(b []byte) (int, error) { return c.r.Read(b) }

// watched tells when it is closed.
type watched struct {
	net.Conn
	once  sync.Once
	ended chan struct{}
}

func (w *watched) Close() error {
	w.once.Do(func() { close(w.ended) })
	return w.Conn.Close()
}

// turned is the listener of a server whose connections are opened here.
type turned struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newTurned() *turned { return &turned{conns: make(chan net.Conn), closed: make(chan struct{})} }

// give reports whether the server took the connection.
func (l *turned) give(conn net.Conn) bool {
	select {
	case l.conns <- conn:
		return true
	case <-l.closed:
		return false
	}
}

func (l *turned) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *turned) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *turned) Addr() net.Addr { return net.TCPAddrFromAddrPort(netip.AddrPort{}) }
