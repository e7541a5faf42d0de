package agent

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"

	"github.com/toe-project/toe/control"
)

// The host offers one file at a time. It opens a connection to the control API and turns it around:
// on it the card asks and the host answers. So the host listens nowhere, and its firewall has
// nothing to let through. For RAUC the file is at a URL of the card's loopback.

// offerWait is how long a request waits for the host to connect again, after a connection broke.
const offerWait = 15 * time.Second

// offers are the connections over which the host serves its file. The newest counts.
type offers struct {
	conns chan net.Conn // one, or none
}

func newOffers() *offers { return &offers{conns: make(chan net.Conn, 1)} }

// put replaces the connection that is still waiting.
func (o *offers) put(conn net.Conn) {
	for {
		select {
		case o.conns <- conn:
			return
		case old := <-o.conns:
			_ = old.Close()
		}
	}
}

// take waits for a connection.
func (o *offers) take(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, offerWait)
	defer cancel()
	select {
	case conn := <-o.conns:
		return conn, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the host to offer a file: %w", ctx.Err())
	}
}

// ServeHTTP takes the connection of a request over. Only the host gets here (ServerTLS).
func (o *offers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != control.OfferProtocol || r.ProtoMajor != 1 {
		http.Error(w, "want HTTP/1.1 and an upgrade to "+control.OfferProtocol, http.StatusUpgradeRequired)
		return
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, err = buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " +
		control.OfferProtocol + "\r\n\r\n")
	if err == nil {
		err = buf.Flush()
	}
	if err != nil || conn.SetDeadline(time.Time{}) != nil || buf.Reader.Buffered() > 0 {
		_ = conn.Close() // the host speaks only when it is asked
		return
	}
	o.put(conn)
}

// relay is the offered file as an HTTP server of the card's loopback.
type relay struct {
	url    string // of the file
	server *http.Server
	via    *http.Transport
	done   sync.WaitGroup
}

// newRelay listens until close. The path is random, so that nothing else on the card that guesses
// ports reads the file.
func (o *offers) newRelay(ctx context.Context) (*relay, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("relay of the offered file: %w", err)
	}
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	via := &http.Transport{
		Protocols: h2c,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return o.take(ctx)
		},
		// A host that died sends no FIN.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
	}
	path := "/" + rand.Text()
	mux := http.NewServeMux()
	mux.Handle("GET "+path, &httputil.ReverseProxy{
		Transport: via,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL = &url.URL{Scheme: "http", Host: "host", Path: "/"}
			r.Out.Host = "host"
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	})
	r := &relay{
		url: "http://" + ln.Addr().String() + path, via: via,
		server: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute},
	}
	r.done.Go(func() { _ = r.server.Serve(ln) })
	return r, nil
}

func (r *relay) close() {
	_ = r.server.Close()
	r.via.CloseIdleConnections()
	r.done.Wait()
}
