package offload

import (
	"bytes"
	"container/list"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/loop"
	"github.com/toe-project/toe/offload/nfqueue"
)

// askedOf is the part of an endpoint that opens connections. Its loop does not run, and its
// verdicts on held SYNs are recorded.
func askedOf(t *testing.T) *tcp {
	t.Helper()
	l, err := loop.NewEpoll()
	if err != nil {
		t.Fatal(err)
	}
	all := &tcp{
		loop: l, verdict: new(verdicts), maxFlows: 16, opening: map[pair]*opening{}, recent: map[pair]uint32{}, oldest: list.New(),
		flows: map[*flow]bool{}, count: TCPStats{Drops: map[string]uint64{}},
	}
	t.Cleanup(func() {
		for _, o := range all.opening {
			o.end()
		}
		l.Discard()
	})
	return all
}

// verdicts remembers the last one.
type verdicts struct{ verdict, id, mark uint32 }

func (v *verdicts) Accept(id, mark uint32) { *v = verdicts{1, id, mark} }
func (v *verdicts) Drop(id uint32)         { *v = verdicts{0, id, 0} }

func (t *tcp) said() (verdict, id, mark uint32) {
	v := t.verdict.(*verdicts)
	return v.verdict, v.id, v.mark
}

// firstSegment is a SYN to a listener on the loopback address.
func firstSegment(id uint32, from uint16, to *net.TCPAddr) nfqueue.Packet {
	b := bytes.Clone(head4)
	copy(b[16:], to.IP.To4())
	binary.BigEndian.PutUint16(b[24:], from)
	binary.BigEndian.PutUint16(b[26:], uint16(to.Port))
	return nfqueue.Packet{ID: id, Head: b}
}

func remote(t *testing.T) (*net.TCPListener, *net.TCPAddr) {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_ = l.SetDeadline(time.Now().Add(10 * time.Second))
	return l, l.Addr().(*net.TCPAddr)
}

func (t *tcp) only() *opening {
	for _, o := range t.opening {
		return o
	}
	return nil
}

func TestFirstSegmentsThatFindNoPlace(t *testing.T) {
	_, to := remote(t)
	for _, c := range []struct {
		name, cause string
		flows       int
		head        []byte
	}{
		{"the table is full", "table full", 16, firstSegment(0, 1, to).Head},
		{"cut", "not understood", 0, head4[:21]},
	} {
		all := askedOf(t)
		for range c.flows {
			all.flows[new(flow)] = true
		}
		all.handleSYN(nfqueue.Packet{ID: 7, Head: c.head})
		verdict, id, _ := all.said()
		if verdict != 0 || id != 7 || all.count.Drops[c.cause] != 1 || len(all.opening) != 0 {
			t.Errorf("%s: verdict %d on packet %d, drops %v, %d being opened", c.name, verdict, id, all.count.Drops, len(all.opening))
		}
	}
}

// TestOldestMakesRoom: an attempt beyond maxOpening evicts the oldest, and no other.
func TestOldestMakesRoom(t *testing.T) {
	all := askedOf(t)
	_, to := remote(t)
	wait := func(i int) *opening {
		s, ok := parseSegment(firstSegment(0, uint16(i), to).Head)
		if !ok {
			t.Fatal("the segment is none")
		}
		o := &opening{t: all, pair: s.pair, fd: -1, held: uint32(i), holds: true}
		all.opening[o.pair], o.age = o, all.oldest.PushBack(o)
		return o
	}
	first, second := wait(1), wait(2)
	for i := 3; i <= maxOpening; i++ {
		wait(i)
	}
	if len(all.opening) != maxOpening || len(all.count.Drops) != 0 {
		t.Fatalf("%d being opened, drops %v", len(all.opening), all.count.Drops)
	}
	all.handleSYN(firstSegment(9999, 9999, to))
	verdict, id, _ := all.said()
	if verdict != 0 || id != 1 || all.count.Drops["gave up for a newer one"] != 1 {
		t.Errorf("verdict %d on packet %d, drops %v; want the first one discarded", verdict, id, all.count.Drops)
	}
	if all.opening[first.pair] != nil || all.opening[second.pair] != second || len(all.opening) != maxOpening || all.oldest.Len() != maxOpening {
		t.Errorf("%d and %d being opened, the first among them: %t", len(all.opening), all.oldest.Len(), all.opening[first.pair] != nil)
	}
}

// TestAnsweredAreNotGivenUp: the SYN-ACK of an answered attempt is on its way to the host, and
// evicting it would reset a connection. So the oldest unanswered attempt is evicted. If all are
// answered, the new SYN is dropped.
func TestAnsweredAreNotGivenUp(t *testing.T) {
	all := askedOf(t)
	l, to := remote(t)
	for i := range maxOpening - 1 {
		s, _ := parseSegment(firstSegment(0, uint16(i+2), to).Head)
		o := &opening{t: all, pair: s.pair, fd: -1, connected: i > 0}
		all.opening[o.pair], o.age = o, all.oldest.PushBack(o)
	}
	silent := all.oldest.Front().Value.(*opening)
	all.handleSYN(firstSegment(1, 1, to))
	first := all.opening[pair{netip.MustParseAddrPort("10.116.0.0:1"), to.AddrPort()}]
	far, err := l.AcceptTCP()
	if first == nil || err != nil {
		t.Fatalf("nothing is being opened, %v", err)
	}
	defer far.Close()
	all.oldest.MoveToFront(first.age) // older than all of them
	first.Ready(unix.EPOLLOUT)
	all.handleSYN(firstSegment(2, 9998, to))
	if all.opening[silent.pair] != nil || all.opening[first.pair] != first || all.count.Drops["gave up for a newer one"] != 1 {
		t.Errorf("the silent one went: %t, the answered one: %t; drops %v", all.opening[silent.pair] == nil, all.opening[first.pair] == nil, all.count.Drops)
	}
	for _, o := range all.opening {
		o.connected = true
	}
	all.handleSYN(firstSegment(3, 9999, to))
	verdict, id, _ := all.said()
	if verdict != 0 || id != 3 || all.count.Drops["too many being opened"] != 1 || len(all.opening) != maxOpening {
		t.Errorf("verdict %d on packet %d, drops %v, %d being opened; want the newcomer discarded", verdict, id, all.count.Drops, len(all.opening))
	}
}

// TestRepeatedSegmentReadLate: a SYN retransmitted before the card's answer is read after its
// connection was accepted. It opens nothing; a SYN with another sequence number does.
func TestRepeatedSegmentReadLate(t *testing.T) {
	all := askedOf(t)
	_, to := remote(t)
	p := firstSegment(4, 1, to)
	s, _ := parseSegment(p.Head)
	if s.seq == 0 {
		t.Fatal("the sample's number is 0: nothing would be shown")
	}
	all.recent[s.pair] = s.seq
	all.handleSYN(p)
	if verdict, id, _ := all.said(); verdict != 0 || id != 4 || len(all.opening) != 0 {
		t.Errorf("verdict %d on packet %d, %d being opened; want it discarded", verdict, id, len(all.opening))
	}
	all.recent[s.pair] = s.seq + 1
	if all.handleSYN(p); len(all.opening) != 1 {
		t.Error("a new connection of the same pair is not opened")
	}
}

// TestSameSegmentAgain: of a retransmitted SYN the newer copy is held.
func TestSameSegmentAgain(t *testing.T) {
	all := askedOf(t)
	_, to := remote(t)
	all.handleSYN(firstSegment(1, 1, to))
	all.handleSYN(firstSegment(2, 1, to))
	if verdict, id, _ := all.said(); verdict != 0 || id != 1 || len(all.opening) != 1 || all.only().held != 2 {
		t.Errorf("verdict %d on packet %d, %d being opened, packet %d held", verdict, id, len(all.opening), all.only().held)
	}
}

// TestNewerSegmentIsTheOneRemembered: a host that gives up and retries from the same port sends a
// SYN with another sequence number. A late retransmission of that SYN must not open a second
// connection to the remote.
func TestNewerSegmentIsTheOneRemembered(t *testing.T) {
	all := askedOf(t)
	l, to := remote(t)
	renewed := func(id uint32) nfqueue.Packet {
		p := firstSegment(id, 1, to)
		binary.BigEndian.PutUint32(p.Head[28:], 0xfeedf00d)
		p.Head[1] = 0xb8
		return p
	}
	all.handleSYN(firstSegment(1, 1, to))
	all.handleSYN(renewed(2))
	far, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	o := all.only()
	if c, err := unix.GetsockoptInt(o.fd, unix.SOL_IP, unix.IP_TOS); c != 0xb8 || err != nil {
		t.Errorf("class %#x on the wire, %v; want that of the newer SYN", c, err)
	}
	o.Ready(unix.EPOLLOUT)
	o.leave()
	all.remember(o)
	all.handleSYN(renewed(3))
	if verdict, id, _ := all.said(); verdict != 0 || id != 3 || len(all.opening) != 0 {
		t.Errorf("verdict %d on packet %d, %d being opened; want the repeat discarded", verdict, id, len(all.opening))
	}
	all.loop.Close(o.fd)
}

// TestHostGoesAway: a host that does not complete the handshake costs the remote a connection for
// acceptLimit.
func TestHostGoesAway(t *testing.T) {
	all := askedOf(t)
	l, to := remote(t)
	all.handleSYN(firstSegment(5, 1, to))
	far, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	o := all.only()
	o.Ready(unix.EPOLLOUT)
	if verdict, id, mark := all.said(); verdict != 1 || id != 5 || mark != markOpen {
		t.Errorf("verdict %d on packet %d with mark %#x; it should go to the listener", verdict, id, mark)
	}
	if in := time.Until(o.limit.At()); in > acceptLimit || in < acceptLimit/2 {
		t.Errorf("the attempt ends in %s, want %s", in, acceptLimit)
	}
	all.loop.Cancel(o.limit)
	o.expire()
	if len(all.opening) != 0 || all.oldest.Len() != 0 || all.count.Drops["host went away while opening"] != 1 {
		t.Errorf("%d being opened, drops %v", len(all.opening), all.count.Drops)
	}
	_ = far.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the remote reads: %v, want a reset", err)
	}
}

// TestNobodyAsked: a connection is accepted after its opening has ended.
func TestNobodyAsked(t *testing.T) {
	all := askedOf(t)
	host, fd := connected(t)
	defer host.Close()
	all.accepted(fd, addrPort(&unix.SockaddrInet4{Port: 1, Addr: [4]byte{192, 0, 2, 1}}))
	if all.count.Drops["not asked for"] != 1 || len(all.flows) != 0 {
		t.Errorf("%d flows, drops %v", len(all.flows), all.count.Drops)
	}
	if _, err := host.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the host reads: %v, want a reset", err)
	}
}
