package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	dnsPort = 53
	// More queries than this at once are answered with SERVFAIL: the host
	// may be busy, and it may be broken.
	dnsAtOnce  = 256
	dnsTimeout = 2 * time.Second // of one upstream
	dnsPerAsk  = 3               // upstreams tried for one query
)

// forwarder answers the host's DNS queries by asking the name servers that
// the card knows. It remembers nothing; the servers do.
type forwarder struct {
	log       *Log
	upstreams atomic.Pointer[[]netip.AddrPort]
	slots     chan struct{}
	last      atomic.Uint32 // index of the upstream that answered last

	mu      sync.Mutex // guards unheard
	unheard unheard
}

// unheard are the queries that no server has answered, since one did: how many,
// and when the first and the last of them were given up.
type unheard struct {
	n           int
	first, last time.Time
}

const (
	// dnsSilence is for how long nobody may have answered, dnsUnheard queries
	// at least, before the card says that its name servers are silent.
	dnsSilence = 30 * time.Second
	dnsUnheard = 3
	// dnsForgets: what was the matter when somebody asked last may be over.
	dnsForgets = 5 * time.Minute
)

// heard notes whether a query has been answered.
func (f *forwarder) heard(answered bool, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if answered {
		f.unheard = unheard{}
		return
	}
	if f.unheard.n == 0 {
		f.unheard.first = now
	}
	f.unheard.n++
	f.unheard.last = now
}

// silent is for how long no server has answered, or 0.
func (f *forwarder) silent(now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.unheard
	if d := u.last.Sub(u.first); u.n >= dnsUnheard && d >= dnsSilence && now.Sub(u.last) < dnsForgets {
		return d
	}
	return 0
}

func newForwarder(log *Log) *forwarder {
	f := &forwarder{log: log, slots: make(chan struct{}, dnsAtOnce)}
	f.set(nil)
	return f
}

// set replaces the upstreams, in order of preference.
func (f *forwarder) set(servers []netip.Addr) {
	list := make([]netip.AddrPort, 0, len(servers))
	for _, s := range servers {
		list = append(list, netip.AddrPortFrom(s, dnsPort))
	}
	if before := f.upstreams.Swap(&list); before != nil && !slices.Equal(*before, list) {
		f.heard(true, time.Time{}) // nothing is known of the new ones
	}
}

// listen serves one address over UDP and TCP until ctx ends. It returns when
// both listen, or one cannot.
func (f *forwarder) listen(ctx context.Context, at netip.AddrPort) error {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, "udp", at.String())
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	ln, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		_ = pc.Close()
		return fmt.Errorf("dns: %w", err)
	}
	udp := &dns.Server{PacketConn: pc, Handler: f, UDPSize: dns.MaxMsgSize}
	tcp := &dns.Server{
		Listener: limitListener(ln, 64), Handler: f, ReadTimeout: 5 * time.Second,
		IdleTimeout: func() time.Duration { return 10 * time.Second },
	}
	for _, s := range []*dns.Server{udp, tcp} {
		var ready sync.WaitGroup
		ready.Add(1)
		s.NotifyStartedFunc = sync.OnceFunc(ready.Done)
		go func() {
			if err := s.ActivateAndServe(); err != nil && !errors.Is(err, net.ErrClosed) {
				f.log.Printf("dns: %v", err)
			}
			s.NotifyStartedFunc() // in case it never started
		}()
		ready.Wait()
	}
	context.AfterFunc(ctx, func() {
		for _, s := range []*dns.Server{udp, tcp} {
			// Answers under way have nobody to go to any more.
			now, cancel := context.WithCancel(context.Background())
			cancel()
			_ = s.ShutdownContext(now)
		}
	})
	return nil
}

// ServeDNS is one query.
func (f *forwarder) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	if q.Response || len(q.Question) != 1 || q.Opcode != dns.OpcodeQuery {
		f.refuse(w, q, dns.RcodeNotImplemented)
		return
	}
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		f.refuse(w, q, dns.RcodeServerFailure)
		return
	}
	switch q.Question[0].Qtype {
	case dns.TypeAXFR, dns.TypeIXFR: // streams, not answers
		f.refuse(w, q, dns.RcodeRefused)
		return
	}
	answer := f.ask(q)
	if answer == nil {
		f.refuse(w, q, dns.RcodeServerFailure)
		return
	}
	answer.Id = q.Id
	if w.LocalAddr().Network() == "udp" {
		answer.Truncate(udpSize(q))
	}
	_ = w.WriteMsg(answer)
}

func (f *forwarder) refuse(w dns.ResponseWriter, q *dns.Msg, rcode int) {
	if q.Response {
		return // answering an answer could go on for ever
	}
	_ = w.WriteMsg(new(dns.Msg).SetRcode(q, rcode))
}

func udpSize(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil {
		return max(int(opt.UDPSize()), dns.MinMsgSize)
	}
	return dns.MinMsgSize
}

// ask tries the upstreams, beginning with the one that answered last.
func (f *forwarder) ask(q *dns.Msg) *dns.Msg {
	list := *f.upstreams.Load()
	n := uint32(len(list))
	if n == 0 {
		return nil
	}
	begin := f.last.Load()
	var fallback *dns.Msg
	answered := false
	defer func() { f.heard(answered, time.Now()) }()
	for i := range min(n, dnsPerAsk) {
		at := (begin + i) % n
		answer, err := exchange(q, list[at].String())
		if err != nil {
			continue
		}
		answered = true
		if answer.Rcode == dns.RcodeServerFailure || answer.Rcode == dns.RcodeRefused {
			fallback = answer
			continue
		}
		f.last.Store(at)
		return answer
	}
	return fallback
}

// exchange asks one server, over UDP and, when the answer did not fit, over
// TCP. The query goes out with an identifier of its own: the host's may be
// guessable. What comes back must be about the same question.
func exchange(q *dns.Msg, server string) (*dns.Msg, error) {
	ask := q.Copy()
	ask.Id = dns.Id()
	// Fragments of large answers get lost on their way; 1232 bytes fit into
	// the smallest IPv6 packet (DNS flag day 2020).
	if opt := ask.IsEdns0(); opt != nil && opt.UDPSize() > 1232 {
		opt.SetUDPSize(1232)
	}
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: dnsTimeout, UDPSize: dns.MaxMsgSize}
		answer, _, err := c.Exchange(ask, server)
		if err != nil {
			return nil, err
		}
		if !answer.Response || len(answer.Question) != 1 || answer.Question[0] != ask.Question[0] {
			return nil, fmt.Errorf("dns: %s answered another question", server)
		}
		if !answer.Truncated {
			return answer, nil
		}
	}
	return nil, fmt.Errorf("dns: %s cuts its answers over TCP", server)
}

// limitListener accepts at most n connections at once; further ones wait in
// the kernel.
func limitListener(ln net.Listener, n int) net.Listener {
	return &limitedListener{Listener: ln, slots: make(chan struct{}, n), done: make(chan struct{})}
}

type limitedListener struct {
	net.Listener
	slots chan struct{}
	once  sync.Once
	done  chan struct{}
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: conn, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	free func()
}

func (c *limitedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
