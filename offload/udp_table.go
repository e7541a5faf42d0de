package offload

import (
	"time"

	"golang.org/x/sys/unix"
)

// state is how far a session has come. It decides how long the session may be idle.
type state int

const (
	unreplied        state = iota // the host has sent, the remote has not
	dnsReplied                    // a query to a name server, which has replied
	replied                       // both have sent
	inboundUnreplied              // a client on the wire has sent to a service
	inboundReplied                // the service has replied
	states
)

// timeouts is how long a session may be idle.
//
//	unreplied, inboundUnreplied  30 s: the card's connection tracking waits as
//	                             long for a first answer. Later ones do not
//	                             come in anyway.
//	replied, inboundReplied      2 min: the minimum of RFC 4787, section 4.3, and
//	                             connection tracking forgets then. Datagrams of
//	                             either side refresh a session.
//	dnsReplied                   10 s: the same section allows less for well-known
//	                             ports. A resolver's socket is for one name; a busy
//	                             resolver on the host makes hundreds a second, and
//	                             the card's memory is for sessions that live.
var timeouts = [states]time.Duration{30 * time.Second, 10 * time.Second, 2 * time.Minute, 30 * time.Second, 2 * time.Minute}

// moveEvery is the resolution of a session's age: a session moves in its list
// at most this often, however many datagrams it carries.
const moveEvery = time.Second

// sessions is the table of sessions, with a list by idle time for each state.
type sessions struct {
	all     map[sessionKey]*session
	idle    [states]sessionList
	inbound int // sessions opened from the wire
}

func newSessions() *sessions {
	f := &sessions{all: make(map[sessionKey]*session)}
	for i := range f.idle {
		f.idle[i].init()
	}
	return f
}

func (t *sessions) add(f *session, l state, now time.Time) {
	t.all[f.key] = f
	f.state, f.moved = l, now
	f.inbound = l == inboundUnreplied
	if f.inbound {
		t.inbound++
	}
	t.idle[l].push(f)
}

func (t *sessions) remove(f *session) {
	delete(t.all, f.key)
	f.unlink()
	if f.inbound {
		t.inbound--
	}
}

// touch records traffic of a session: it updates its state and its age.
func (t *sessions) touch(f *session, fromHost bool, now time.Time) {
	l := f.state
	switch {
	case l == unreplied && !fromHost && f.key.remote.port() == 53:
		l = dnsReplied
	case l == unreplied && !fromHost:
		l = replied
	case l == inboundUnreplied && fromHost:
		l = inboundReplied
	}
	if l == f.state && now.Sub(f.moved) < moveEvery {
		return
	}
	f.state, f.moved = l, now
	f.unlink()
	t.idle[l].push(f)
}

// expired returns a session that has been idle for too long, or nil.
func (t *sessions) expired(now time.Time) *session {
	for l := range t.idle {
		if f := t.idle[l].first(); f != nil && now.Sub(f.moved) >= timeouts[l]+moveEvery {
			return f
		}
	}
	return nil
}

// idlest returns the session in one of these states that would expire first, or nil.
func (t *sessions) idlest(among ...state) *session {
	var found *session
	var at time.Time
	for _, l := range among {
		f := t.idle[l].first()
		if f == nil {
			continue
		}
		if end := f.moved.Add(timeouts[l]); found == nil || end.Before(at) {
			found, at = f, end
		}
	}
	return found
}

// sessionList is a ring through head, ordered by the time of the last move.
type sessionList struct{ head session }

func (l *sessionList) init() { l.head.next, l.head.prev = &l.head, &l.head }

func (l *sessionList) first() *session {
	if l.head.next == &l.head {
		return nil
	}
	return l.head.next
}

func (l *sessionList) push(f *session) {
	f.next, f.prev = &l.head, l.head.prev
	f.prev.next, f.next.prev = f, f
}

func (f *session) unlink() {
	f.prev.next, f.next.prev = f.next, f.prev
	f.next, f.prev = nil, nil
}

// socketsFor returns the maximum number of sockets: a sixteenth of the card's memory, at 4 KiB for
// a socket with its file, its epoll entry and our struct. Each mapping has one, and each remote. In
// 256 MiB that is 4096: as many resolvers that query one server, or one program with as many peers.
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
