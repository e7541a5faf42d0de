package agent

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/toe-project/toe/control"
)

// turnAround opens a connection to the card as the host does, and serves data on it until closed.
func turnAround(t *testing.T, address string, data []byte) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: card\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n",
		control.OfferPath, control.OfferProtocol)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", resp, err)
	}
	h2c := new(http.Protocols)
	h2c.SetUnencryptedHTTP2(true)
	s := &http.Server{Protocols: h2c, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	})}
	t.Cleanup(func() { s.Close() })
	l := &oneConn{conn: make(chan net.Conn, 1), addr: conn.LocalAddr()}
	l.conn <- readConn{conn, r}
	go func() { _ = s.Serve(l) }()
	return conn
}

type readConn struct {
	net.Conn
	r io.Reader
}

func (c readConn) Read(b []byte) (int, error) { return c.r.Read(b) }

type oneConn struct {
	conn chan net.Conn
	once sync.Once
	addr net.Addr
}

func (l *oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.conn
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l *oneConn) Close() error   { l.once.Do(func() { close(l.conn) }); return nil }
func (l *oneConn) Addr() net.Addr { return l.addr }

// get asks the relay as RAUC does: for a range.
func get(t *testing.T, url string, from, to int) ([]byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusPartialContent {
		return nil, fmt.Errorf("status %d: %s", resp.StatusCode, data)
	}
	return data, err
}

func TestOffer(t *testing.T) {
	needNamespace(t)
	loopbackUp(t)
	data := make([]byte, 1<<20)
	_, _ = rand.Read(data)
	o := newOffers()
	card := httptest.NewServer(o)
	defer card.Close()
	r, err := o.newRelay(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	address := strings.TrimPrefix(card.URL, "http://")
	first := turnAround(t, address, data)
	check := func(from, to int) {
		t.Helper()
		if got, err := get(t, r.url, from, to); err != nil || !bytes.Equal(got, data[from:to]) {
			t.Errorf("bytes %d to %d: %d bytes, %v", from, to, len(got), err)
		}
	}
	check(0, 100)
	check(1<<19, 1<<20)
	// The connection breaks. A request that comes meanwhile waits for the next one.
	first.Close()
	time.AfterFunc(300*time.Millisecond, func() { turnAround(t, address, data) })
	deadline := time.Now().Add(10 * time.Second)
	for {
		got, err := get(t, r.url, 5, 50)
		if err == nil && bytes.Equal(got, data[5:50]) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the connection broke: %v", err)
		}
	}
	if _, err := get(t, r.url+"x", 0, 1); err == nil {
		t.Error("another path is answered")
	}
}

func TestOfferRefuses(t *testing.T) {
	needNamespace(t)
	loopbackUp(t)
	card := httptest.NewServer(newOffers())
	defer card.Close()
	resp, err := http.Get(card.URL + control.OfferPath)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("without an upgrade: %d", resp.StatusCode)
	}
}
