package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	dnsConnections = 64               // over TCP at once; further ones wait in the kernel
	dnsPipeline    = 16               // concurrent queries on one connection (RFC 7766, 6.2.1)
	dnsIdle        = 10 * time.Second // of a connection, until its next question
)

// listen serves one address over UDP and TCP until ctx ends. It returns when
// both listen, or one cannot.
func (f *forwarder) listen(ctx context.Context, at netip.AddrPort) error {
	pc, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		_ = pc.Close()
		return fmt.Errorf("dns: %w", err)
	}
	context.AfterFunc(ctx, func() { _ = pc.Close() })
	go f.serveUDP(ctx, pc)
	go f.serveTCP(ctx, ln)
	return nil
}

func (f *forwarder) serveUDP(ctx context.Context, pc *net.UDPConn) {
	buf := make([]byte, dnsMaxTCP)
	for {
		n, from, err := pc.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			f.log.Printf("dns: %v", err)
			if !sleep(ctx, 100*time.Millisecond) {
				return
			}
			continue
		}
		q, err := parseQuery(append([]byte(nil), buf[:n]...))
		if errors.Is(err, errNoQuery) {
			continue
		}
		f.answer(ctx, q, err, q.room(), func(p []byte) {
			if _, err := pc.WriteToUDPAddrPort(p, from); err != nil && !errors.Is(err, net.ErrClosed) {
				f.log.Printf("dns: answer to %s: %v", from, err)
			}
		})
	}
}

func (f *forwarder) serveTCP(ctx context.Context, ln net.Listener) {
	ln = limitListener(ln, dnsConnections)
	context.AfterFunc(ctx, func() { _ = ln.Close() })
	for {
		conn, err := ln.Accept()
		if err == nil {
			go f.serveConn(ctx, conn)
		} else if errors.Is(err, net.ErrClosed) || !sleep(ctx, 100*time.Millisecond) {
			return
		}
	}
}

// serveConn answers the questions of one connection as the answers come. A
// program that has closed its side still gets them.
func (f *forwarder) serveConn(ctx context.Context, conn net.Conn) {
	var answers sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		answers.Wait()
		stop()
		_ = conn.Close()
	}()
	var writing sync.Mutex
	slots := make(chan struct{}, dnsPipeline)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(dnsIdle))
		p, err := readFramed(conn)
		if err != nil {
			return
		}
		q, err := parseQuery(p)
		if errors.Is(err, errNoQuery) {
			return
		}
		slots <- struct{}{} // an answer under way gives one back within dnsPatience
		answers.Add(1)
		f.answer(ctx, q, err, dnsMaxTCP, func(p []byte) {
			defer func() {
				<-slots
				answers.Done()
			}()
			writing.Lock()
			defer writing.Unlock()
			_ = conn.SetWriteDeadline(time.Now().Add(dnsIdle))
			if err := writeFramed(conn, p); err != nil {
				_ = conn.Close() // half an answer may have gone out
			}
		})
	}
}
