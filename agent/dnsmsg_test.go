package agent

import (
	"bytes"
	"errors"
	"testing"

	"github.com/miekg/dns"
)

func wireOf(t testing.TB, m *dns.Msg) []byte {
	t.Helper()
	p, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func ednsQuestion(size uint16) *dns.Msg {
	q := question("example.org.")
	q.SetEdns0(size, true)
	return q
}

func TestParseQuery(t *testing.T) {
	plain, edns := wireOf(t, question("example.org.")), wireOf(t, ednsQuestion(4096))
	response := bytes.Clone(plain)
	response[2] |= dnsResponse
	compressed := append(bytes.Clone(plain[:12]), 0xc0, 12, 0, 1, 0, 1)
	twice := append(bytes.Clone(edns), edns[len(plain):]...)
	twice[11] = 2
	for name, tt := range map[string]struct {
		wire []byte
		want error
		room int
	}{
		"plain":            {plain, nil, 512},
		"EDNS":             {edns, nil, 4096},
		"EDNS of 100":      {wireOf(t, ednsQuestion(100)), nil, 512},
		"empty":            {nil, errNoQuery, 0},
		"short":            {plain[:11], errNoQuery, 0},
		"a response":       {response, errNoQuery, 0},
		"cut name":         {plain[:20], errFormat, 512},
		"compressed name":  {compressed, errFormat, 512},
		"cut OPT":          {edns[:len(edns)-1], errFormat, 512},
		"two OPTs":         {twice, errFormat, 4096},
		"transfer":         {wireOf(t, new(dns.Msg).SetAxfr("example.")), errTransfer, 512},
		"dynamic update":   {wireOf(t, new(dns.Msg).SetUpdate("example.")), errQuestion, 512},
		"notify, RFC 1996": {wireOf(t, new(dns.Msg).SetNotify("example.")), errQuestion, 512},
	} {
		q, err := parseQuery(tt.wire)
		if !errors.Is(err, tt.want) || q != nil && q.room() != tt.room {
			t.Errorf("%s: %+v, %v, want %v and room for %d bytes", name, q, err, tt.want, tt.room)
		}
	}
}

// TestQueryUpstream: the UDP size is lowered, and without EDNS nothing of it is left.
func TestQueryUpstream(t *testing.T) {
	q, err := parseQuery(wireOf(t, ednsQuestion(4096)))
	if err != nil {
		t.Fatal(err)
	}
	var m dns.Msg
	if err := m.Unpack(q.upstream([2]byte{1, 2}, true)); err != nil || m.Id != 0x102 || m.IsEdns0().UDPSize() != dnsFragment || !m.IsEdns0().Do() {
		t.Errorf("with EDNS: %v, %v", m, err)
	}
	if err := m.Unpack(q.upstream([2]byte{1, 2}, false)); err != nil || m.IsEdns0() != nil || len(m.Extra) != 0 {
		t.Errorf("without: %v, %v", m, err)
	}
}

// FuzzParseQuery: what a program sends is refused or relayed, and what goes out
// is a message again.
func FuzzParseQuery(f *testing.F) {
	f.Add(wireOf(f, question("example.org.")))
	f.Add(wireOf(f, ednsQuestion(4096)))
	f.Add(wireOf(f, new(dns.Msg).SetUpdate("example.")))
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 'a', 0, 0, 1, 0, 1, 0, 0, 41, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		q, err := parseQuery(p)
		if errors.Is(err, errNoQuery) {
			return
		}
		if r := q.refusal(rcodeRefused); !bytes.Equal(r[:2], p[:2]) || r[2]&dnsResponse == 0 || len(r) > q.room() {
			t.Fatalf("refusal %x", r)
		}
		if err != nil {
			return
		}
		for _, edns := range []bool{true, false} {
			again, err := parseQuery(q.upstream([2]byte{1, 2}, edns))
			if err != nil || !bytes.Equal(again.question, q.question) || !edns && again.opt != 0 {
				t.Fatalf("EDNS %v: %x, %v", edns, q.upstream([2]byte{1, 2}, edns), err)
			}
		}
	})
}

// FuzzAnswer: what a server sends is ignored or an answer to the program's own
// question, under its own identifier and no longer than it takes.
func FuzzAnswer(f *testing.F) {
	ask := wireOf(f, ednsQuestion(1232))
	good := wireOf(f, reply(question("EXAMPLE.org."), "example.org. 60 IN A 192.0.2.2"))
	good[0], good[1] = 1, 2
	f.Add(good)
	f.Add(append(good[:len(good):len(good)], make([]byte, 2000)...))
	f.Add([]byte{1, 2, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		q, err := parseQuery(ask)
		if err != nil {
			t.Fatal(err)
		}
		if !q.answeredBy(p, [2]byte{1, 2}) {
			return
		}
		r := q.reply(p, q.room())
		if len(r) > q.room() || !bytes.Equal(r[:2], ask[:2]) || !bytes.HasPrefix(r[12:], q.question) {
			t.Fatalf("reply %x", r)
		}
	})
}
