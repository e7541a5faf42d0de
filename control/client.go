package control

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"connectrpc.com/connect"

	"github.com/toe-project/toe/control/cardpb"
)

const (
	dialLimit = 2 * time.Second
	dialFirst = 15 * time.Millisecond // the round trip of a link is below 1 ms
)

// DialFunc opens the TCP connection to the card. With it a caller binds the
// connection to an interface, or opens it in another network namespace.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Client calls one card.
type Client struct {
	cardpb.CardClient
	transport *http.Transport
}

// Dial prepares a client of the card at addr. It sends nothing before the first
// call. It needs the keys CA, ClientCert and ClientKey. A nil dial is a plain
// one. An attempt to connect ends after two seconds. What the card answers is
// bounded and printable (answers.go).
func Dial(addr netip.AddrPort, keys Keys, dial DialFunc) (*Client, error) {
	if !addr.IsValid() {
		return nil, fmt.Errorf("control: address %q: want address:port", addr)
	}
	conf, err := ClientTLS(keys)
	if err != nil {
		return nil, err
	}
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	t := &http.Transport{
		DialContext:         patient(dial),
		TLSClientConfig:     conf,
		TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout:     time.Minute,
		ForceAttemptHTTP2:   true,
		// A card that dies in the middle of a stream sends no FIN. Without a ping
		// the stream would never end.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
	}
	c := cardpb.NewCardClient(&http.Client{Transport: t}, "https://"+addr.String(),
		connect.WithReadMaxBytes(maxAnswer), connect.WithInterceptors(scrubber{}))
	return &Client{c, t}, nil
}

// patient repeats a connection attempt for dialLimit, each time with a longer
// limit. A card that boots drops the first SYN, and TCP sends the next one only
// a second later, long after the card is ready.
func patient(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialLimit)
		defer cancel()
		for try := dialFirst; ; try *= 2 {
			once, cancel := context.WithTimeout(ctx, try)
			conn, err := dial(once, network, address)
			late := once.Err() != nil || isTimeout(err)
			cancel()
			if err == nil || !late || ctx.Err() != nil {
				return conn, err
			}
		}
	}
}

// isTimeout reports whether a limit has passed. The net package has timers of its own, which may
// expire a moment before the context does.
func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// Close closes idle connections. Calls under way end by their contexts.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// ClientTLS is the host's side: it presents its certificate and accepts only
// its own card's.
func ClientTLS(k Keys) (*tls.Config, error) {
	cert, pool, err := pair(k.ClientCert, k.ClientKey, k.CA)
	if err != nil {
		return nil, fmt.Errorf("control: client keys: %w", err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ServerName:   ServerName,
		RootCAs:      pool,
		Certificates: []tls.Certificate{cert},
	}, nil
}

// ServerTLS is the card's side: only its own host passes the handshake.
func ServerTLS(k Keys) (*tls.Config, error) {
	cert, pool, err := pair(k.ServerCert, k.ServerKey, k.CA)
	if err != nil {
		return nil, fmt.Errorf("control: server keys: %w", err)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		Certificates: []tls.Certificate{cert},
		NextProtos:   []string{"h2", "http/1.1"},
	}, nil
}

func pair(cert, key, ca []byte) (tls.Certificate, *x509.CertPool, error) {
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return c, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return c, nil, errors.New("ca.pem has no certificate, want one in PEM")
	}
	return c, pool, nil
}
