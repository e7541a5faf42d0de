package agent

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

const (
	dnsPatience = 10 * time.Second // of one question, over all servers
	// A lost datagram is sent again after this, and then after pauses twice as
	// long each.
	dnsResend = 400 * time.Millisecond
	// A server that has not answered for this long is silent: the next one is
	// asked beside it.
	dnsStagger = time.Second
	// Programs give up after 5 s (resolv.conf(5)); a cut answer must reach them.
	dnsTCPLimit = 3 * time.Second
)

// upstream is one name server.
type upstream struct {
	addr netip.AddrPort

	mu     sync.Mutex // guards what follows
	silent bool       // it left a question without an answer, and answered none since
	probed time.Time  // when it was last asked in order to learn that it is back
}

func (u *upstream) setSilent(silent bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.silent = silent
}

func (u *upstream) isSilent() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.silent
}

// probe reports whether a silent server is due a question: one a second.
func (u *upstream) probe(now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.silent || now.Sub(u.probed) < dnsStagger {
		return false
	}
	u.probed = now
	return true
}

// exchange asks the server: over UDP, without EDNS if it does not understand
// that (RFC 6891, section 7), and over TCP if the answer did not fit. An answer
// that cannot be had whole is returned cut.
func (u *upstream) exchange(ctx context.Context, q *query) ([]byte, error) {
	edns := q.opt != 0
	answer, err := u.overUDP(ctx, q, edns)
	if err == nil && edns && (rcode(answer) == rcodeFormErr || rcode(answer) == rcodeNotImp) {
		edns = false
		if plain, err := u.overUDP(ctx, q, edns); err == nil {
			answer = plain
		}
	}
	if err != nil {
		return nil, err
	}
	if answer[2]&dnsTruncated != 0 {
		if whole, err := u.overTCP(ctx, q, edns); err == nil {
			answer = whole
		}
	}
	u.setSilent(false)
	return answer, nil
}

// dial returns a connection that is closed when ctx ends. One socket is one
// question, from a port that is hard to guess. ICMP errors reach it.
func (u *upstream) dial(ctx context.Context, network string) (net.Conn, func(), error) {
	at := u.addr
	if zone := at.Addr().Zone(); zone != "" {
		// The package net remembers the indexes of names for a minute; a port of
		// the same name may have another one by then.
		dev, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, nil, err
		}
		at = netip.AddrPortFrom(at.Addr().WithZone(strconv.Itoa(dev.Index)), at.Port())
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, at.String())
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	return conn, func() {
		stop()
		_ = conn.Close()
	}, nil
}

func dnsID() (id [2]byte) {
	_, _ = rand.Read(id[:]) // it does not fail (crypto/rand)
	return id
}

// overUDP sends the query until an answer arrives, the server's port is found to be closed or ctx
// ends. It ignores datagrams that do not answer the query, because any node can send them.
func (u *upstream) overUDP(ctx context.Context, q *query, edns bool) ([]byte, error) {
	conn, end, err := u.dial(ctx, "udp")
	if err != nil {
		return nil, err
	}
	defer end()
	id := dnsID()
	ask, buf := q.upstream(id, edns), make([]byte, 4096)
	for pause := dnsResend; ; pause *= 2 {
		if _, err := conn.Write(ask); err != nil {
			return nil, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(pause)); err != nil {
			return nil, err
		}
		for {
			n, err := conn.Read(buf)
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				break
			}
			if err != nil {
				return nil, err
			}
			if !q.answeredBy(buf[:n], id) {
				continue
			}
			if n == len(buf) { // there may have been more
				buf[2] |= dnsTruncated
			}
			return buf[:n], nil
		}
	}
}

func (u *upstream) overTCP(ctx context.Context, q *query, edns bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTCPLimit)
	defer cancel()
	conn, end, err := u.dial(ctx, "tcp")
	if err != nil {
		return nil, err
	}
	defer end()
	id := dnsID()
	if err := writeFramed(conn, q.upstream(id, edns)); err != nil {
		return nil, err
	}
	for {
		answer, err := readFramed(conn)
		if err != nil {
			return nil, err
		}
		if q.answeredBy(answer, id) {
			return answer, nil
		}
	}
}

// readFramed reads a message over TCP: two bytes of length, then the message
// (RFC 1035, section 4.2.2).
func readFramed(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	p := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, p)
	return p, err
}

// writeFramed writes length and message at once: some servers want them in one
// segment (RFC 7766, section 8).
func writeFramed(w io.Writer, p []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...))
	return err
}
