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
	dialFirst = 15 * time.Millisecond // a link answers in less than one
)

// DialFunc opens the TCP connection to the card, so that a caller can bind it
// to an interface or open it in another network namespace.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Client calls one card.
type Client struct {
	cardpb.CardClient
	transport *http.Transport
}

// Dial prepares a client of the card at addr; nothing is sent before the
// first call. The keys needed are CA, ClientCert and ClientKey. A nil dial
// is a plain one. A connection
// that nothing answers is given up after two seconds.
func Dial(addr netip.AddrPort, keys Keys, dial DialFunc) (*Client, error) {
	if !addr.IsValid() {
		return nil, fmt.Errorf("control: address %q: an address with a port is right", addr)
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
		// A card that dies in the middle of a stream sends no FIN. Without a
		// ping the stream would wait for ever.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
	}
	c := cardpb.NewCardClient(&http.Client{Transport: t}, "https://"+addr.String(),
		connect.WithReadMaxBytes(maxAnswer), connect.WithInterceptors(scrubber{}))
	return &Client{c, t}, nil
}

// patient tries a connection again and again for dialLimit, each time for
// longer. A card that starts drops the first SYN, and TCP sends the next one
// only a second later, when the card has long been ready.
func patient(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialLimit)
		defer cancel()
		for try := dialFirst; ; try *= 2 {
			once, cancel := context.WithTimeout(ctx, try)
			conn, err := dial(once, network, address)
			late := once.Err() != nil
			cancel()
			if err == nil || !late || ctx.Err() != nil {
				return conn, err
			}
		}
	}
}

// Close lets go of idle connections; calls under way end by their contexts.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// ClientTLS is the host's side: it shows its certificate and accepts only
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

// ServerTLS is the card's side: only its own host gets past the handshake.
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
		return c, nil, errors.New("ca.pem holds no certificate, one in PEM is right")
	}
	return c, pool, nil
}
