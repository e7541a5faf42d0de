package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// nameServer is an upstream on a loopback address, port 53.
type nameServer struct {
	mu      sync.Mutex
	udp     int
	tcp     int
	answer  func(w dns.ResponseWriter, q *dns.Msg)
	servers []*dns.Server
}

func startNameServer(t *testing.T, ip string, answer func(dns.ResponseWriter, *dns.Msg)) *nameServer {
	t.Helper()
	needNamespace(t)
	loopbackUp(t)
	n := &nameServer{answer: answer}
	var pc net.PacketConn
	var ln net.Listener
	// Seen once: the socket of the test before was still there for some ms after
	// its end, as a child between fork and exec would keep it.
	eventually(t, 3*time.Second, "port 53 of "+ip, func() (err error) {
		if pc, err = net.ListenPacket("udp", ip+":53"); err != nil {
			return err
		}
		if ln, err = net.Listen("tcp", ip+":53"); err != nil {
			_ = pc.Close()
		}
		return err
	})
	n.servers = []*dns.Server{{PacketConn: pc, Handler: n}, {Listener: ln, Handler: n}}
	for _, s := range n.servers {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		go func() { _ = s.ActivateAndServe() }()
		<-ready
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return n
}

func (n *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	n.mu.Lock()
	if w.LocalAddr().Network() == "udp" {
		n.udp++
	} else {
		n.tcp++
	}
	n.mu.Unlock()
	n.answer(w, q)
}

func (n *nameServer) seen() (udp, tcp int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.udp, n.tcp
}

func reply(q *dns.Msg, records ...string) *dns.Msg {
	m := new(dns.Msg).SetReply(q)
	for _, r := range records {
		if rr, err := dns.NewRR(r); err == nil {
			m.Answer = append(m.Answer, rr)
		}
	}
	return m
}

func good(w dns.ResponseWriter, q *dns.Msg) {
	_ = w.WriteMsg(reply(q, q.Question[0].Name+" 60 IN A 192.0.2.7"))
}

func loopbackUp(t *testing.T) {
	t.Helper()
	nl := handle(t)
	lo, err := nl.LinkByName("lo")
	if err == nil {
		err = nl.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
}

const forwardAt = "127.0.0.1:53"

func startForwarder(t *testing.T, upstreams ...string) *forwarder {
	t.Helper()
	needNamespace(t)
	loopbackUp(t)
	f := newForwarder(NewLog(t.Output()))
	var list []netip.Addr
	for _, u := range upstreams {
		list = append(list, netip.MustParseAddr(u))
	}
	f.set(list)
	if err := f.listen(t.Context(), netip.MustParseAddrPort(forwardAt)); err != nil {
		t.Fatal(err)
	}
	// The context ends before cleanups run; the next test needs the port.
	t.Cleanup(func() {
		eventually(t, 3*time.Second, "end of the forwarder", func() error {
			ln, err := net.Listen("tcp", forwardAt)
			if err == nil {
				_ = ln.Close()
			}
			return err
		})
	})
	return f
}

func lookup(t *testing.T, network string, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 8 * time.Second, UDPSize: dns.MaxMsgSize}
	m, _, err := c.Exchange(q, forwardAt)
	if err != nil {
		t.Fatalf("%s: %v", network, err)
	}
	return m
}

func question(name string) *dns.Msg { return new(dns.Msg).SetQuestion(name, dns.TypeA) }

func TestDNSForwards(t *testing.T) {
	startNameServer(t, "127.0.0.2", good)
	startForwarder(t, "127.0.0.2")
	for _, network := range []string{"udp", "tcp"} {
		if m := lookup(t, network, question("example.org.")); len(m.Answer) != 1 || !strings.Contains(m.Answer[0].String(), "192.0.2.7") {
			t.Errorf("%s: %v", network, m)
		}
	}
}

func TestDNSWithoutUpstream(t *testing.T) {
	startForwarder(t)
	if m := lookup(t, "udp", question("example.org.")); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("rcode %v, want SERVFAIL", dns.RcodeToString[m.Rcode])
	}
}

// TestDNSTruncation: what does not fit is fetched over TCP, and cut to what
// the host's program said it takes.
func TestDNSTruncation(t *testing.T) {
	n := startNameServer(t, "127.0.0.2", func(w dns.ResponseWriter, q *dns.Msg) {
		m := reply(q)
		for i := range 100 {
			rr, _ := dns.NewRR(fmt.Sprintf("%s 60 IN A 192.0.2.%d", q.Question[0].Name, i))
			m.Answer = append(m.Answer, rr)
		}
		if w.LocalAddr().Network() == "udp" {
			m.Truncate(512)
		}
		_ = w.WriteMsg(m)
	})
	startForwarder(t, "127.0.0.2")
	if m := lookup(t, "tcp", question("big.example.")); len(m.Answer) != 100 || m.Truncated {
		t.Errorf("tcp: %d answers, truncated %v; want 100 and false", len(m.Answer), m.Truncated)
	}
	if m := lookup(t, "udp", question("big.example.")); !m.Truncated {
		t.Errorf("udp, 512 bytes: %d answers and no truncation", len(m.Answer))
	}
	large := question("big.example.")
	large.SetEdns0(32768, false)
	if m := lookup(t, "udp", large); len(m.Answer) != 100 || m.Truncated {
		t.Errorf("udp, 32 KiB: %d answers, truncated %v; want 100 and false", len(m.Answer), m.Truncated)
	}
	if _, tcp := n.seen(); tcp != 3 {
		t.Errorf("%d questions over TCP upstream, want 3", tcp)
	}
}

// TestDNSFailover: a server that is silent, refuses or lies is passed over. A
// refusal may be about one name, so that server stays the first; one that left
// a question without an answer is asked after the others.
func TestDNSFailover(t *testing.T) {
	startNameServer(t, "127.0.0.2", func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused))
	})
	startNameServer(t, "127.0.0.3", func(w dns.ResponseWriter, q *dns.Msg) {
		other := q.Copy()
		other.Question[0].Name = "evil.example."
		_ = w.WriteMsg(reply(other, "evil.example. 60 IN A 192.0.2.66"))
	})
	startNameServer(t, "127.0.0.4", good)
	f := startForwarder(t, "127.0.0.2", "127.0.0.3", "127.0.0.4")
	for range 2 {
		if m := lookup(t, "udp", question("example.org.")); len(m.Answer) != 1 {
			t.Fatalf("%v", m)
		}
	}
	var order []string
	for _, u := range f.order() {
		order = append(order, u.addr.Addr().String())
	}
	if s := strings.Join(order, " "); s != "127.0.0.2 127.0.0.4 127.0.0.3" {
		t.Errorf("order %s, want the liar last", s)
	}
}

// TestDNSRefuses: what is no plain question gets an answer that says so, and
// an answer gets none.
func TestDNSRefuses(t *testing.T) {
	startNameServer(t, "127.0.0.2", good)
	startForwarder(t, "127.0.0.2")
	two := question("a.example.")
	two.Question = append(two.Question, two.Question[0])
	transfer := new(dns.Msg).SetAxfr("example.")
	update := new(dns.Msg).SetUpdate("example.")
	for name, q := range map[string]*dns.Msg{"two questions": two, "transfer": transfer, "update": update} {
		if m := lookup(t, "tcp", q); m.Rcode == dns.RcodeSuccess {
			t.Errorf("%s: answered", name)
		}
	}
}

// TestDNSIsBounded: one question too many ends the oldest, which is told so.
func TestDNSIsBounded(t *testing.T) {
	f := newForwarder(NewLog(io.Discard))
	first, leave := f.enter(t.Context())
	defer leave()
	var last context.Context
	for range dnsAtOnce {
		if first.Err() != nil {
			t.Fatal("the oldest has ended before there were too many")
		}
		ctx, leave := f.enter(t.Context())
		defer leave()
		last = ctx
	}
	if first.Err() == nil || last.Err() != nil || f.asking.Len() != dnsAtOnce {
		t.Errorf("first %v, last %v, %d under way, want the first to have ended", first.Err(), last.Err(), f.asking.Len())
	}
}

// TestDNSSilence: a card says that its servers are silent when the host has
// asked in vain for a while, and no longer when one answers, when they are
// replaced, or when no question came since.
func TestDNSSilence(t *testing.T) {
	start := time.Now()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	f := newForwarder(NewLog(io.Discard))
	f.set([]netip.Addr{netip.MustParseAddr("192.0.2.53")})
	ask := func(answered bool, seconds ...int) {
		for _, s := range seconds {
			f.heard(answered, at(s))
		}
	}
	says := func(step string, seconds int, want time.Duration) {
		t.Helper()
		if got := f.silent(at(seconds)); got != want {
			t.Errorf("%s: silent for %v, want %v", step, got, want)
		}
	}
	ask(false, 0, 40)
	says("two queries", 40, 0)
	ask(false, 41)
	says("three", 41, 41*time.Second)
	says("long ago", 41+int(dnsForgets.Seconds()), 0)
	ask(true, 42)
	says("answered", 42, 0)
	ask(false, 50, 51, 52, 53)
	says("within seconds", 53, 0)
	ask(false, 90)
	says("again", 90, 40*time.Second)
	f.set([]netip.Addr{netip.MustParseAddr("192.0.2.53")})
	says("the same servers", 91, 40*time.Second)
	f.set([]netip.Addr{netip.MustParseAddr("192.0.2.54")})
	says("other servers", 91, 0)
	some := []netip.Addr{netip.MustParseAddr("192.0.2.53")}
	if r := dnsHealth(some, true, false, 40*time.Second); r.state != degraded || !strings.Contains(r.detail, "40s") || !strings.Contains(r.detail, "192.0.2.53") {
		t.Errorf("health %v", r)
	}
}

// TestDNSCountsWhatNobodyAnswers: queries that go through.
func TestDNSCountsWhatNobodyAnswers(t *testing.T) {
	startNameServer(t, "127.0.0.2", func(w dns.ResponseWriter, q *dns.Msg) {
		_ = w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)) // alive
	})
	f := startForwarder(t, "127.0.0.3") // no server there
	count := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.unheard.n
	}
	if m := lookup(t, "udp", question("example.org.")); m.Rcode != dns.RcodeServerFailure || count() != 1 {
		t.Errorf("%v, %d unheard, want SERVFAIL and 1", m, count())
	}
	f.set([]netip.Addr{netip.MustParseAddr("127.0.0.3"), netip.MustParseAddr("127.0.0.2")})
	if lookup(t, "udp", question("example.org.")); count() != 0 {
		t.Errorf("%d unheard after an answer", count())
	}
}

// TestDNSLinkLocalServer: a server that only exists on one port's wire.
func TestDNSLinkLocalServer(t *testing.T) {
	wire := newSpace(t)
	cable(t, "cable0", wanMAC, wire, "srv", "")
	nl := handle(t)
	dev, err := nameDevice(nl, wanMAC, "wan")
	if err == nil {
		err = nl.LinkSetUp(dev)
	}
	if err != nil {
		t.Fatal(err)
	}
	wire.address("srv", "fe80::53/64")
	if err := addAddress(nl, dev, prefix("fe80::7/64"), unix.IFA_F_NODAD); err != nil {
		t.Fatal(err)
	}
	var pc net.PacketConn
	wire.in(func() (err error) { pc, err = net.ListenPacket("udp6", "[::]:53"); return })
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(good)}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	f := startForwarder(t)
	f.set([]netip.Addr{netip.MustParseAddr("fe80::53%wan")})
	if m := lookup(t, "udp", question("example.org.")); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
}
