package agent

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// scripted is an upstream name server on port 53 of a loopback address. Its
// script gets every query and returns the datagrams or TCP messages to answer
// with, byte by byte as they go out.
type scripted struct {
	mu     sync.Mutex
	count  int
	script func(n int, network string, q *dns.Msg) [][]byte
}

func (s *scripted) answers(network string, wire []byte) [][]byte {
	q := new(dns.Msg)
	if q.Unpack(wire) != nil {
		return nil
	}
	s.mu.Lock()
	s.count++
	n, script := s.count, s.script
	s.mu.Unlock()
	return script(n, network, q)
}

func (s *scripted) seen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// startScripted serves UDP, and TCP unless script is for UDP only.
func startScripted(t *testing.T, ip string, tcp bool, script func(int, string, *dns.Msg) [][]byte) *scripted {
	t.Helper()
	s := &scripted{script: script}
	pc, err := net.ListenPacket("udp", ip+":53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		for buf := make([]byte, 64<<10); ; {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			wire := append([]byte(nil), buf[:n]...)
			go func() {
				for _, a := range s.answers("udp", wire) {
					_, _ = pc.WriteTo(a, from)
				}
			}()
		}
	}()
	if !tcp {
		return s
	}
	ln, err := net.Listen("tcp", ip+":53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go s.serveTCP(conn)
		}
	}()
	return s
}

func (s *scripted) serveTCP(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		wire := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, wire); err != nil {
			return
		}
		for _, a := range s.answers("tcp", wire) {
			_, _ = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
		}
	}
}

func packed(m *dns.Msg) [][]byte {
	m.Compress = true
	wire, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return [][]byte{wire}
}

// from answers with an address record that names the server.
func from(address string) func(int, string, *dns.Msg) [][]byte {
	return func(_ int, _ string, q *dns.Msg) [][]byte {
		return packed(reply(q, q.Question[0].Name+" 60 IN A "+address))
	}
}

func silent(int, string, *dns.Msg) [][]byte { return nil }

// stub is a stub resolver that sends a query once and waits 5 s, the C
// library's time-out (resolv.conf(5)).
type stub struct {
	t       *testing.T
	forward string
}

func (s stub) raw(network string, q *dns.Msg) []byte {
	s.t.Helper()
	wire, err := q.Pack()
	if err != nil {
		s.t.Fatal(err)
	}
	conn, err := net.Dial(network, s.forward)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	c := &dns.Conn{Conn: conn, UDPSize: dns.MaxMsgSize}
	if _, err := c.Write(wire); err != nil {
		s.t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	n, err := c.Read(buf)
	if err != nil {
		s.t.Fatalf("%s %s: %v", network, q.Question[0].Name, err)
	}
	return buf[:n]
}

func (s stub) ask(network string, q *dns.Msg) *dns.Msg {
	s.t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(s.raw(network, q)); err != nil {
		s.t.Fatalf("%s %s: %v", network, q.Question[0].Name, err)
	}
	return m
}

// wants asks over UDP for one address record.
func (s stub) wants(name, address string) {
	s.t.Helper()
	m := s.ask("udp", question(name))
	if m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 || !strings.Contains(m.Answer[0].String(), address) {
		s.t.Fatalf("%s: %v, want %s", name, m, address)
	}
}

// forwarderCase is what a network does to a forwarder. One .2 is the first
// server, .3 the second one.
type forwarderCase struct {
	name    string
	servers int
	run     func(t *testing.T, net string, s stub)
}

var forwarderCases = []forwarderCase{
	{"plain", 1, func(t *testing.T, net string, s stub) {
		startScripted(t, net+".2", true, from("192.0.2.2"))
		s.wants("plain.example.", "192.0.2.2")
		if m := s.ask("tcp", question("plain.example.")); len(m.Answer) != 1 {
			t.Errorf("tcp: %v", m)
		}
	}},
	{"lost datagram", 1, func(t *testing.T, net string, s stub) {
		startScripted(t, net+".2", true, func(n int, network string, q *dns.Msg) [][]byte {
			if n == 1 {
				return nil
			}
			return from("192.0.2.2")(n, network, q)
		})
		s.wants("lost.example.", "192.0.2.2")
	}},
	{"answer takes 2.5 s", 1, func(t *testing.T, net string, s stub) {
		startScripted(t, net+".2", true, func(n int, network string, q *dns.Msg) [][]byte {
			time.Sleep(2500 * time.Millisecond)
			return from("192.0.2.2")(n, network, q)
		})
		s.wants("slow.example.", "192.0.2.2")
	}},
	{"0x20 and a server that answers in lower case", 1, func(t *testing.T, net string, s stub) {
		startScripted(t, net+".2", true, func(n int, network string, q *dns.Msg) [][]byte {
			q.Question[0].Name = strings.ToLower(q.Question[0].Name)
			return from("192.0.2.2")(n, network, q)
		})
		m := s.ask("udp", question("eXaMPle.oRG."))
		if len(m.Answer) != 1 || m.Question[0].Name != "eXaMPle.oRG." {
			t.Errorf("%v", m)
		}
	}},
	{"600 records over TCP", 1, func(t *testing.T, net string, s stub) {
		long := strings.Repeat(strings.Repeat("x", 60)+".", 3)
		startScripted(t, net+".2", true, func(_ int, network string, q *dns.Msg) [][]byte {
			m := reply(q)
			for i := range 600 {
				rr, _ := dns.NewRR(fmt.Sprintf("%s 60 IN A 192.0.%d.%d", q.Question[0].Name, i/250, i%250))
				m.Answer = append(m.Answer, rr)
			}
			if network == "udp" {
				m.Answer, m.Truncated = nil, true
			}
			return packed(m)
		})
		if m := s.ask("tcp", question(long)); len(m.Answer) != 600 || m.Truncated {
			t.Errorf("%d records, truncated %v, want 600 and false", len(m.Answer), m.Truncated)
		}
		if m := s.ask("udp", question(long)); !m.Truncated || m.Rcode != dns.RcodeSuccess {
			t.Errorf("udp: %v, want a truncated answer", m.MsgHdr)
		}
	}},
	{"first server silent, then back", 2, func(t *testing.T, net string, s stub) {
		one := startScripted(t, net+".2", true, silent)
		startScripted(t, net+".3", true, from("192.0.2.3"))
		s.wants("a.example.", "192.0.2.3")
		one.mu.Lock()
		one.script = from("192.0.2.2")
		one.mu.Unlock()
		for i := range 40 {
			m := s.ask("udp", question(fmt.Sprintf("n%d.example.", i)))
			if len(m.Answer) == 1 && strings.Contains(m.Answer[0].String(), "192.0.2.2") {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Errorf("40 questions within 4 s, and the first server answered none (it has seen %d)", one.seen())
	}},
	{"first server refuses", 2, func(t *testing.T, net string, s stub) {
		startScripted(t, net+".2", true, func(_ int, _ string, q *dns.Msg) [][]byte {
			return packed(new(dns.Msg).SetRcode(q, dns.RcodeRefused))
		})
		startScripted(t, net+".3", true, from("192.0.2.3"))
		s.wants("a.example.", "192.0.2.3")
	}},
	{"first server's port is closed", 2, func(t *testing.T, net string, s stub) {
		startScripted(t, net+".3", true, from("192.0.2.3"))
		s.wants("a.example.", "192.0.2.3")
	}},
	{"truncated and no TCP", 1, func(t *testing.T, net string, s stub) {
		startScripted(t, net+".2", false, func(_ int, _ string, q *dns.Msg) [][]byte {
			m := reply(q, q.Question[0].Name+" 60 IN A 192.0.2.2")
			m.Truncated = true
			return packed(m)
		})
		if m := s.ask("udp", question("cut.example.")); m.Rcode != dns.RcodeSuccess || !m.Truncated {
			t.Errorf("%v, want the cut answer", m)
		}
	}},
	{"FORMERR with an empty question to EDNS", 1, func(t *testing.T, net string, s stub) {
		startScripted(t, net+".2", true, func(n int, network string, q *dns.Msg) [][]byte {
			if q.IsEdns0() == nil {
				return from("192.0.2.2")(n, network, q)
			}
			m := new(dns.Msg)
			m.Id, m.Response, m.Rcode = q.Id, true, dns.RcodeFormatError
			return packed(m)
		})
		q := question("old.example.")
		q.SetEdns0(1232, false)
		if m := s.ask("udp", q); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
			t.Errorf("%v, want an answer", m)
		}
	}},
	{"malformed additional record", 1, func(t *testing.T, net string, s stub) {
		startScripted(t, net+".2", true, func(n int, network string, q *dns.Msg) [][]byte {
			wire := from("192.0.2.2")(n, network, q)[0]
			wire[11] = 1 // ARCOUNT
			// An A record of 9 bytes, of which 2 are there.
			return [][]byte{append(wire, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 9, 1, 2)}
		})
		wire := s.raw("udp", question("odd.example."))
		if rcode, answers := wire[3]&15, binary.BigEndian.Uint16(wire[6:]); rcode != 0 || answers != 1 {
			t.Errorf("rcode %d, %d answers, want 0 and 1", rcode, answers)
		}
	}},
	{"300 unanswered questions", 1, func(t *testing.T, net string, s stub) {
		server := startScripted(t, net+".2", true, func(n int, network string, q *dns.Msg) [][]byte {
			if strings.HasPrefix(q.Question[0].Name, "dead") {
				return nil
			}
			return from("192.0.2.2")(n, network, q)
		})
		conn := dialDNS(t, s.forward)
		for i := range 300 {
			wire, _ := question(fmt.Sprintf("dead%d.example.", i)).Pack()
			if _, err := conn.Write(wire); err != nil {
				t.Fatal(err)
			}
		}
		for end := time.Now().Add(time.Second); server.seen() < 250 && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond) // a forwarder may take fewer at once
		}
		s.wants("alive.example.", "192.0.2.2")
	}},
	{"forged datagrams before the answer", 1, func(t *testing.T, net string, s stub) {
		startScripted(t, net+".2", true, func(n int, network string, q *dns.Msg) [][]byte {
			id, other := q.Copy(), q.Copy()
			id.Id++
			other.Question[0].Name = "evil.example."
			return [][]byte{
				packed(reply(id, q.Question[0].Name+" 60 IN A 192.0.2.66"))[0],
				packed(reply(other, "evil.example. 60 IN A 192.0.2.66"))[0],
				{1, 2, 3},
				from("192.0.2.2")(n, network, q)[0],
			}
		})
		s.wants("forged.example.", "192.0.2.2")
	}},
}

func dialDNS(t *testing.T, forward string) net.Conn {
	t.Helper()
	conn, err := net.Dial("udp", forward)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestForwarderCases measures a DNS forwarder against the table: the agent's
// own, or the program that the shell command TOE_TEST_FORWARDER starts, which
// serves port 53 of $LISTEN and asks $SERVERS. For dnsmasq:
//
//	TOE_TEST_FORWARDER='exec dnsmasq -k -C /dev/null -R -h --bind-interfaces -a $LISTEN -c 0
//	$(for s in $SERVERS; do echo -S $s; done)' go test ./agent -run TestForwarderCases -v
func TestForwarderCases(t *testing.T) {
	needNamespace(t)
	loopbackUp(t)
	for i, c := range forwarderCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			net := fmt.Sprintf("127.0.%d", 100+i)
			var servers []string
			for n := range c.servers {
				servers = append(servers, fmt.Sprintf("%s.%d", net, 2+n))
			}
			startUnderTest(t, net+".1", servers)
			c.run(t, net, stub{t, net + ".1:53"})
		})
	}
}

func startUnderTest(t *testing.T, listen string, servers []string) {
	t.Helper()
	if program := os.Getenv("TOE_TEST_FORWARDER"); program != "" {
		startForeign(t, program, listen, servers)
		return
	}
	f := newForwarder(NewLog(t.Output()))
	var list []netip.Addr
	for _, s := range servers {
		list = append(list, netip.MustParseAddr(s))
	}
	f.set(list)
	if err := f.listen(t.Context(), netip.MustParseAddrPort(listen+":53")); err != nil {
		t.Fatal(err)
	}
}

func startForeign(t *testing.T, program, listen string, servers []string) {
	t.Helper()
	cmd := exec.Command("sh", "-c", program)
	cmd.Env = append(os.Environ(), "LISTEN="+listen, "SERVERS="+strings.Join(servers, " "))
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, 10*time.Second, program, func() error {
		conn, err := net.Dial("tcp", listen+":53")
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
}
