package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The network behind the card's port (RFC 5737), and its hosts.
const (
	worldAddr = "192.0.2.1"
	cardAddr  = "192.0.2.2"
	worldNet  = "192.0.2.0/24"
	worldName = "www.example.test"
)

// world serves in a namespace: web (80), which answers with the client's address, names (53), echo
// (7, TCP and UDP) and an exchange of bulk data (9).
type world struct{ netns string }

func newWorld(t *testing.T, netns string) world {
	t.Helper()
	w := world{netns}
	w.serveWeb(t)
	w.serveNames(t)
	w.serveTCP(t, ":7", func(c net.Conn) { _, _ = io.Copy(c, c) })
	w.serveTCP(t, ":9", func(c net.Conn) { _ = answerExchange(c) })
	w.serveEcho(t)
	return w
}

func (w world) listen(t *testing.T, address string) net.Listener {
	t.Helper()
	var l net.Listener
	if err := inNetns(w.netns, func() (err error) { l, err = net.Listen("tcp", address); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func (w world) listenPacket(t *testing.T, address string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	if err := inNetns(w.netns, func() (err error) { c, err = net.ListenPacket("udp4", address); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (w world) serveWeb(t *testing.T) {
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(out, host)
	})}
	l := w.listen(t, ":80")
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
}

func (w world) serveNames(t *testing.T) {
	answer := dns.HandlerFunc(func(out dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Name != worldName+"." {
			m.Rcode = dns.RcodeNameError
		} else if q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{
				Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
				A:   net.ParseIP(worldAddr),
			}}
		}
		_ = out.WriteMsg(m)
	})
	for _, s := range []*dns.Server{
		{PacketConn: w.listenPacket(t, ":53"), Handler: answer},
		{Listener: w.listen(t, ":53"), Handler: answer},
	} {
		go func() { _ = s.ActivateAndServe() }()
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = s.ShutdownContext(ctx)
		})
	}
}

func (w world) serveTCP(t *testing.T, address string, answer func(net.Conn)) {
	l := w.listen(t, address)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				// Longer than any test: no connection outlives it.
				_ = c.SetDeadline(time.Now().Add(10 * time.Minute))
				stop := context.AfterFunc(t.Context(), func() { c.Close() })
				defer stop()
				answer(c)
			}()
		}
	}()
}

func (w world) serveEcho(t *testing.T) {
	c := w.listenPacket(t, ":7")
	go func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(buf[:n], from)
		}
	}()
}

// exchange sends size bytes and fetches as many over one connection. Each side confirms what it
// received by its SHA-256:
//
//	to the world  size (8 bytes) data
//	back          sha256 of that, data, sha256 of the latter
func exchange(c net.Conn, size int64, seed uint64) error {
	sent := sha256.New()
	header := binary.BigEndian.AppendUint64(nil, uint64(size))
	if _, err := c.Write(header); err != nil {
		return err
	}
	if _, err := io.CopyN(io.MultiWriter(c, sent), noise(seed), size); err != nil {
		return fmt.Errorf("to the world: %w", err)
	}
	return fetch(c, size, sent.Sum(nil))
}

func fetch(c net.Conn, size int64, sent []byte) error {
	theirs := make([]byte, sha256.Size)
	if _, err := io.ReadFull(c, theirs); err != nil {
		return fmt.Errorf("the world's checksum: %w", err)
	}
	if string(theirs) != string(sent) {
		return fmt.Errorf("%d bytes to the world: it got %x, sent was %x", size, theirs, sent)
	}
	got := sha256.New()
	if n, err := io.CopyN(got, c, size); err != nil {
		return fmt.Errorf("from the world, after %d bytes: %w", n, err)
	}
	if _, err := io.ReadFull(c, theirs); err != nil {
		return err
	}
	if string(theirs) != string(got.Sum(nil)) {
		return fmt.Errorf("%d bytes from the world: got %x, it sent %x", size, got.Sum(nil), theirs)
	}
	return nil
}

func answerExchange(c net.Conn) error {
	header := make([]byte, 8)
	if _, err := io.ReadFull(c, header); err != nil {
		return err
	}
	size := int64(binary.BigEndian.Uint64(header))
	sum := sha256.New()
	if _, err := io.CopyN(sum, c, size); err != nil {
		return err
	}
	if _, err := c.Write(sum.Sum(nil)); err != nil {
		return err
	}
	sum.Reset()
	if _, err := io.CopyN(io.MultiWriter(c, sum), noise(uint64(size)), size); err != nil {
		return err
	}
	_, err := c.Write(sum.Sum(nil))
	return err
}

// noise is an endless stream, the same for the same seed.
func noise(seed uint64) io.Reader {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	return rand.NewChaCha8(key)
}

// sum returns the SHA-256 of everything in r, in hexadecimal.
func sum(r io.Reader) string {
	s := sha256.New()
	_, _ = io.Copy(s, r)
	return fmt.Sprintf("%x", s.Sum(nil))
}
