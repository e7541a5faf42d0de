package offload

import (
	"fmt"
	"testing"
	"time"
)

func sessionTo(remote string, n int) *session {
	return &session{key: sessionKey{host: addressed(fmt.Sprintf("10.0.0.1:%d", 1000+n)), remote: addressed(remote)}}
}

// TestFlowsExpire: how long a flow may rest depends on who has spoken.
func TestFlowsExpire(t *testing.T) {
	begin := time.Now()
	for _, c := range []struct {
		name   string
		remote string
		state  state
		answer func(f *sessions, t *session)
		want   time.Duration
	}{
		{"no answer", "192.0.2.1:123", unreplied, func(*sessions, *session) {}, 30 * time.Second},
		{"answered", "192.0.2.1:123", unreplied, func(f *sessions, t *session) { f.touch(t, false, begin) }, 2 * time.Minute},
		{"name server", "192.0.2.1:53", unreplied, func(f *sessions, t *session) { f.touch(t, false, begin) }, 10 * time.Second},
		{"name server, no answer", "192.0.2.1:53", unreplied, func(*sessions, *session) {}, 30 * time.Second},
		{"client", "192.0.2.1:5000", inboundUnreplied, func(f *sessions, t *session) { f.touch(t, false, begin) }, 30 * time.Second},
		{"client, served", "192.0.2.1:5000", inboundUnreplied, func(f *sessions, t *session) { f.touch(t, true, begin) }, 2 * time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newSessions()
			one := sessionTo(c.remote, 1)
			f.add(one, c.state, begin)
			c.answer(f, one)
			if f.expired(begin.Add(c.want-time.Millisecond)) != nil {
				t.Errorf("gone before %v", c.want)
			}
			if f.expired(begin.Add(c.want+moveEvery)) != one {
				t.Errorf("still there %v after %v", moveEvery, c.want)
			}
			f.remove(one)
			if f.expired(begin.Add(time.Hour)) != nil || len(f.all) != 0 || f.inbound != 0 {
				t.Error("left behind")
			}
		})
	}
}

func TestFlowsIdlest(t *testing.T) {
	f, begin := newSessions(), time.Now()
	var all []*session
	for i := range 5 {
		one := sessionTo("192.0.2.1:123", i)
		f.add(one, unreplied, begin)
		f.touch(one, false, begin)
		all = append(all, one)
	}
	idleOne := sessionTo("192.0.2.1:123", 9)
	f.add(idleOne, unreplied, begin)
	// Traffic moves a flow to the end, but not for every datagram.
	f.touch(all[0], true, begin.Add(moveEvery/2))
	if got := f.idlest(replied); got != all[0] {
		t.Error("moved by the second datagram in half a second")
	}
	f.touch(all[0], true, begin.Add(2*moveEvery))
	if got := f.idlest(replied); got != all[1] {
		t.Errorf("idlest is %v, want the second", got.key)
	}
	if got := f.idlest(unreplied, dnsReplied, replied, inboundUnreplied, inboundReplied); got != idleOne {
		t.Errorf("idlest of all is %v, want the one with the shortest time left", got.key)
	}
	if got := f.idlest(inboundUnreplied, inboundReplied); got != nil {
		t.Errorf("idlest of none is %v", got.key)
	}
}

func TestSocketsForMemory(t *testing.T) {
	for _, c := range []struct {
		memory, files uint64
		want          int
	}{
		{256 << 20, 262144, 4096},
		{256 << 20, 4096, 1024},
		{16 << 20, 262144, 256},
		{64 << 30, 1 << 20, 65536},
		{0, 0, 256},
	} {
		if got := socketsFor(c.memory, c.files); got != c.want {
			t.Errorf("memory %d, files %d: %d sockets, want %d", c.memory, c.files, got, c.want)
		}
	}
}

func TestTalksTo(t *testing.T) {
	for a, want := range map[string]bool{
		"192.0.2.1:1": true, "[2001:db8::1]:1": true, "[fd00::1]:1": true,
		"192.0.2.1:0": false, "0.0.0.0:1": false, "127.0.0.1:1": false, "224.0.0.1:1": false,
		"[::]:1": false, "[::1]:1": false, "[fe80::1]:1": false, "[ff02::1]:1": false, "[2001:db8::1]:0": false,
	} {
		p := addressed(a)
		if p.isUnicast() != want || p.String() != a {
			t.Errorf("%s: %t, want %t", p, p.isUnicast(), want)
		}
	}
}
