package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
)

// A DNS message (RFC 1035, section 4.1):
//
//	 0  identifier
//	 2  QR, opcode (4 bits), AA, TC, RD | RA, Z (3), rcode (4)
//	 4  number of questions, 6 of answers, 8 of authorities, 10 of additional records
//	12  questions: name, type, class
//	    records: name, type, class, TTL (4), length (2), data
//
// The forwarder relays messages. It reads the header, the question and the place
// of the OPT record in a query, and nothing else: what a server says in its
// records concerns the program that asked.
const (
	dnsHeader   = 12
	dnsMaxName  = 255 // RFC 1035, section 2.3.4
	dnsMinUDP   = 512 // what a program takes that does not say more (section 4.2.1)
	dnsMaxTCP   = 65535
	dnsFragment = 1232 // bytes that fit into the smallest IPv6 packet (DNS flag day 2020)

	dnsResponse  = 0x80 // in byte 2
	dnsOpcode    = 0x78
	dnsTruncated = 0x02
	dnsRcode     = 0x0f // in byte 3

	rcodeFormErr  = 1
	rcodeServFail = 2
	rcodeNotImp   = 4
	rcodeRefused  = 5

	typeOPT  = 41 // RFC 6891, section 6.1.2
	typeIXFR = 251
	typeAXFR = 252
)

// query is a program's question, checked.
type query struct {
	wire     []byte // as it came
	question []byte // of wire: name, type and class
	// opt and optEnd are the place of the OPT record in wire; 0 without one.
	opt, optEnd int
}

var (
	errNoQuery  = errors.New("no DNS query")           // no answer is due
	errFormat   = errors.New("malformed DNS query")    // FORMERR
	errQuestion = errors.New("not a plain question")   // NOTIMP
	errTransfer = errors.New("zone transfers refused") // REFUSED
)

// parseQuery checks a program's message. A query is good even if it comes with
// an error other than errNoQuery: refusal answers it.
func parseQuery(p []byte) (*query, error) {
	if len(p) < dnsHeader || p[2]&dnsResponse != 0 {
		return nil, errNoQuery // an answer to an answer could go on without end
	}
	q := &query{wire: p}
	if p[2]&dnsOpcode != 0 || binary.BigEndian.Uint16(p[4:]) != 1 {
		return q, errQuestion
	}
	end, ok := questionEnd(p)
	if !ok {
		return q, errFormat
	}
	q.question = p[dnsHeader:end]
	if t := binary.BigEndian.Uint16(q.question[len(q.question)-4:]); t == typeAXFR || t == typeIXFR {
		return q, errTransfer // a stream of messages, not an answer
	}
	return q, q.findOPT(end)
}

// questionEnd returns the end of the first question. Its name must not be
// compressed: there is nothing before it.
func questionEnd(p []byte) (int, bool) {
	at := dnsHeader
	for at < len(p) && at-dnsHeader < dnsMaxName {
		n := int(p[at])
		at += 1 + n
		if n == 0 {
			return at + 4, at+4 <= len(p)
		}
		if n > 63 {
			break
		}
	}
	return 0, false
}

// findOPT looks for the OPT record among the records that follow at.
func (q *query) findOPT(at int) error {
	p, n := q.wire, 0
	for _, count := range []int{6, 8, 10} {
		n += int(binary.BigEndian.Uint16(p[count:]))
	}
	for ; n > 0; n-- {
		begin := at
		if at = nameEnd(p, at); at == 0 || at+10 > len(p) {
			return errFormat
		}
		kind, size := binary.BigEndian.Uint16(p[at:]), int(binary.BigEndian.Uint16(p[at+8:]))
		if at += 10 + size; at > len(p) {
			return errFormat
		}
		if kind != typeOPT {
			continue
		}
		if q.opt != 0 || p[begin] != 0 {
			return errFormat // RFC 6891, section 6.1.1: one, of the root
		}
		q.opt, q.optEnd = begin, at
	}
	return nil
}

// nameEnd returns the end of the name at a place, or 0.
func nameEnd(p []byte, at int) int {
	for at < len(p) {
		switch n := int(p[at]); {
		case n == 0:
			return at + 1
		case n >= 0xc0: // a pointer ends a name (RFC 1035, section 4.1.4)
			return at + 2
		case n > 63:
			return 0
		default:
			at += 1 + n
		}
	}
	return 0
}

// room is the largest UDP message that the program takes, in bytes.
func (q *query) room() int {
	if q.opt == 0 {
		return dnsMinUDP
	}
	return max(int(binary.BigEndian.Uint16(q.wire[q.opt+3:])), dnsMinUDP)
}

// upstream returns the query for a server, under an identifier of its own: the
// program's may be guessable. A large UDP size is lowered, because fragments of
// answers get lost on their way.
func (q *query) upstream(id [2]byte, edns bool) []byte {
	out := slices.Clone(q.wire)
	out[0], out[1] = id[0], id[1]
	switch {
	case q.opt == 0:
	case !edns:
		out = slices.Delete(out, q.opt, q.optEnd)
		binary.BigEndian.PutUint16(out[10:], binary.BigEndian.Uint16(out[10:])-1)
	default:
		size := out[q.opt+3:]
		binary.BigEndian.PutUint16(size, min(binary.BigEndian.Uint16(size), dnsFragment))
	}
	return out
}

// answeredBy reports whether a server's message answers the query that went out
// under id. The case of letters is free (RFC 4343). Old servers leave out the
// question when they refuse.
func (q *query) answeredBy(p []byte, id [2]byte) bool {
	if len(p) < dnsHeader || p[0] != id[0] || p[1] != id[1] ||
		p[2]&dnsResponse == 0 || p[2]&dnsOpcode != 0 {
		return false
	}
	switch binary.BigEndian.Uint16(p[4:]) {
	case 0:
		return rcode(p) != 0
	case 1:
		end, ok := questionEnd(p)
		return ok && sameQuestion(p[dnsHeader:end], q.question)
	}
	return false
}

// sameQuestion compares two questions: letters of the name without case, the
// four bytes behind it as they are.
func sameQuestion(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	n := len(a) - 4
	for i := range n {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return bytes.Equal(a[n:], b[n:])
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c | 0x20
	}
	return c
}

func rcode(p []byte) byte { return p[3] & dnsRcode }

// reply makes a server's answer the program's: its identifier, its spelling of
// the question (programs compare it, draft-vixie-dnsext-dns0x20), and at most
// size bytes.
func (q *query) reply(answer []byte, size int) []byte {
	if binary.BigEndian.Uint16(answer[4:]) == 0 {
		return q.refusal(rcode(answer))
	}
	if len(answer) > size {
		out := q.refusal(rcode(answer))
		out[2] |= dnsTruncated
		return out
	}
	copy(answer, q.wire[:2])
	copy(answer[dnsHeader:], q.question)
	return answer
}

// refusal is an answer without records.
func (q *query) refusal(rcode byte) []byte {
	out := make([]byte, dnsHeader, dnsHeader+len(q.question)+11)
	copy(out, q.wire[:3])
	out[2] |= dnsResponse
	out[2] &^= dnsTruncated
	out[3] = 0x80 | rcode // recursion is available
	if q.question != nil {
		out[5] = 1
		out = append(out, q.question...)
	}
	if q.opt != 0 { // RFC 6891, section 6.1.1: EDNS is answered with EDNS
		out[11] = 1
		out = append(out, 0, 0, typeOPT, dnsFragment>>8, dnsFragment&0xff, 0, 0, 0, 0, 0, 0)
	}
	return out
}
