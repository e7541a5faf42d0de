package e2e

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// showMany runs a case on many connections, all open before the first one sends, and counts what
// they saw.
func (s scene) showMany(at place, family int) (string, error) {
	var l net.Listener
	err := inNetns(at.far, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(at.addr[family], "0"))
		return err
	})
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	near, far := make([]*talk, s.many), make([]*talk, s.many)
	var servers, clients sync.WaitGroup
	servers.Go(func() {
		for i := range far {
			far[i] = &talk{place: at}
			if c := s.accept(l, far[i]); c != nil {
				servers.Go(func() { defer c.Close(); s.server(far[i]) })
			}
		}
	})
	const threads = 16
	var open sync.WaitGroup
	for k := range threads {
		open.Go(func() {
			for i := k; i < s.many; i += threads {
				near[i] = &talk{place: at, target: at.addr[family]}
				near[i].connect(port)
			}
		})
	}
	open.Wait()
	for _, c := range near {
		if c.TCPConn != nil {
			clients.Go(func() { defer c.Close(); s.client(c) })
		}
	}
	clients.Wait()
	l.Close()
	servers.Wait()
	return tally("client", near) + "\n" + tally("server", far), nil
}

func (s scene) accept(l net.Listener, p *talk) *net.TCPConn {
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(caseLimit))
	c, err := l.Accept()
	if err != nil {
		p.note("accept: %s", errorName(err))
		return nil
	}
	p.TCPConn = c.(*net.TCPConn)
	_ = c.SetDeadline(time.Now().Add(s.limit()))
	return p.TCPConn
}

// tally counts the connections by what they saw.
func tally(who string, all []*talk) string {
	count := map[string]int{}
	for _, p := range all {
		count[p.line(who)]++
	}
	var lines []string
	for text, n := range count {
		lines = append(lines, fmt.Sprintf("%d times %s", n, text))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
