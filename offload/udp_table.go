package offload

import (
	"time"

	"golang.org/x/sys/unix"
)

// life is a stage of a flow: it says how long the flow may rest.
type life int

const (
	asked   life = iota // the host has spoken, the remote has not
	lookup              // a question to a name server, which has answered
	stream              // both have spoken
	knocked             // somebody on the wire has spoken to a service
	served              // the service has answered
	lives
)

// patience is how long a flow may rest.
//
//	asked, knocked  30 s: as long as the card's connection tracking waits
//	                for a first answer. Later ones do not come in anyway.
//	stream, served  2 min: RFC 4787, section 4.3, has it as the least, and
//	                connection tracking forgets then. The wire's datagrams
//	                prolong a flow as the host's do.
//	lookup          10 s: the same section allows less for well-known ports.
//	                A resolver's socket is for one name; a busy resolver on
//	                the host makes hundreds a second, and the card's memory
//	                is for flows that live.
var patience = [lives]time.Duration{30 * time.Second, 10 * time.Second, 2 * time.Minute, 30 * time.Second, 2 * time.Minute}

// moveEvery is how exactly a flow's age is known: a flow moves in its list
// this often at most, however many datagrams it carries.
const moveEvery = time.Second

// flows finds flows, and knows which has rested longest.
type talks struct {
	all     map[talkKey]*talk
	rested  [lives]talkList
	foreign int // those that somebody on the wire began
}

func newTalks() *talks {
	f := &talks{all: make(map[talkKey]*talk)}
	for i := range f.rested {
		f.rested[i].init()
	}
	return f
}

func (t *talks) add(f *talk, l life, now time.Time) {
	t.all[f.key] = f
	f.life, f.moved = l, now
	f.foreign = l == knocked
	if f.foreign {
		t.foreign++
	}
	t.rested[l].push(f)
}

func (t *talks) remove(f *talk) {
	delete(t.all, f.key)
	f.unlink()
	if f.foreign {
		t.foreign--
	}
}

// touch notes that a flow has carried something.
func (t *talks) touch(f *talk, fromHost bool, now time.Time) {
	l := f.life
	switch {
	case l == asked && !fromHost && f.key.remote.port() == 53:
		l = lookup
	case l == asked && !fromHost:
		l = stream
	case l == knocked && fromHost:
		l = served
	}
	if l == f.life && now.Sub(f.moved) < moveEvery {
		return
	}
	f.life, f.moved = l, now
	f.unlink()
	t.rested[l].push(f)
}

// expired is a flow that has rested for too long, or nil.
func (t *talks) expired(now time.Time) *talk {
	for l := range t.rested {
		if f := t.rested[l].first(); f != nil && now.Sub(f.moved) >= patience[l]+moveEvery {
			return f
		}
	}
	return nil
}

// idlest is the flow that would expire first among those in these stages.
func (t *talks) idlest(among ...life) *talk {
	var found *talk
	var at time.Time
	for _, l := range among {
		f := t.rested[l].first()
		if f == nil {
			continue
		}
		if end := f.moved.Add(patience[l]); found == nil || end.Before(at) {
			found, at = f, end
		}
	}
	return found
}

// talkList is a ring with the list itself as its one fixed member, ordered by
// the time of the last move.
type talkList struct{ head talk }

func (l *talkList) init() { l.head.next, l.head.prev = &l.head, &l.head }

func (l *talkList) first() *talk {
	if l.head.next == &l.head {
		return nil
	}
	return l.head.next
}

func (l *talkList) push(f *talk) {
	f.next, f.prev = &l.head, l.head.prev
	f.prev.next, f.next.prev = f, f
}

func (f *talk) unlink() {
	f.prev.next, f.next.prev = f.next, f.prev
	f.next, f.prev = nil, nil
}

// socketsFor is how many sockets the card's memory allows: a sixteenth of it,
// at 4 KiB for a socket with its file, its place in epoll and our struct.
// Each endpoint of the host has one, and each remote. In 256 MiB that is 4096: as
// many resolvers that ask one server, or one program with as many peers.
func socketsFor(memory uint64, descriptors uint64) int {
	n := min(memory/16/4096, descriptors/4)
	return int(max(256, min(n, 1<<16)))
}

func socketLimit() int {
	var info unix.Sysinfo_t
	var files unix.Rlimit
	if unix.Sysinfo(&info) != nil || unix.Getrlimit(unix.RLIMIT_NOFILE, &files) != nil {
		return socketsFor(0, 0)
	}
	return socketsFor(uint64(info.Totalram)*uint64(info.Unit), files.Cur)
}
