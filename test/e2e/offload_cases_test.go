package e2e

import (
	"crypto/sha256"
	"hash"
	"io"
	"strings"
	"testing"
	"time"
)

func newSum() hash.Hash { return sha256.New() }

// scenes is the table of the behaviour that programs rely on.
var scenes = []scene{
	{
		name:   "half-close by the client",
		client: func(c *talk) { c.send(5000, 1); c.closeWrite(); c.getAll() },
		server: func(s *talk) { s.getAll(); s.pause(); s.send(100_000, 2) },
	}, {
		name:   "half-close by the server",
		client: func(c *talk) { c.getAll(); c.pause(); c.send(100_000, 2) },
		server: func(s *talk) { s.send(5000, 1); s.closeWrite(); s.getAllAfterPeer() },
	}, {
		name:   "client resets, no data",
		client: func(c *talk) { c.pause(); c.reset() },
		server: func(s *talk) { s.getAll() },
	}, {
		name:   "client resets after data",
		client: func(c *talk) { c.send(5000, 1); c.pause(); c.reset() },
		server: func(s *talk) { s.pause(); s.pause(); s.getAll() },
	}, {
		name:   "server resets, no data",
		client: func(c *talk) { c.getAll() },
		server: func(s *talk) { s.pause(); s.reset() },
	}, {
		name:   "server resets after data",
		client: func(c *talk) { c.pause(); c.pause(); c.getAll() },
		server: func(s *talk) { s.send(5000, 1); s.pause(); s.reset() },
	}, {
		name:   "client closes with data unread",
		client: func(c *talk) { c.pause(); c.note("close: %s", errorName(c.Close())) },
		server: func(s *talk) { s.send(5000, 1); s.getAll() },
	}, {
		name:   "client writes after the server has closed",
		client: func(c *talk) { c.pause(); c.sendUntilError(); c.getAll() },
		server: func(s *talk) { s.note("close: %s", errorName(s.Close())) },
	}, {
		name:   "server writes after the client has closed",
		client: func(c *talk) { c.note("close: %s", errorName(c.Close())) },
		server: func(s *talk) { s.pause(); s.sendUntilError(); s.getAll() },
	}, {
		name:   "client writes after a reset",
		client: func(c *talk) { c.pause(); c.pause(); c.sendUntilError() },
		server: func(s *talk) { s.pause(); s.reset() },
	},
	{
		name:   "server accepts and resets at once",
		client: func(c *talk) { c.broken() },
		server: func(s *talk) { s.reset() },
	},
	{name: "refused", port: closedPort},
	{name: "silence", port: silentPort},
	{name: "host unreachable", to: [2]string{noHost, noHost6}, port: "80"},
	{name: "network unreachable", to: [2]string{noNetwork, noRoute6}, port: "80"},
	{
		name:   "slow reader",
		client: func(c *talk) { c.plug(64<<20, 1); c.closeWrite() },
		server: func(s *talk) { s.slowly() },
	}, {
		name:   "slow reader on the client's side",
		client: func(c *talk) { c.slowly() },
		server: func(s *talk) { s.plug(64<<20, 1) },
	}, {
		name:   "slow writer",
		alone:  true,
		client: func(c *talk) { c.small(8, writeEvery); c.closeWrite() },
		server: func(s *talk) { s.timely(8) },
	}, {
		name:   "slow writer on the server's side",
		alone:  true,
		client: func(c *talk) { c.timely(8) },
		server: func(s *talk) { s.small(8, writeEvery) },
	}, {
		name:   "writes of one byte",
		client: func(c *talk) { c.small(10_000, 0); c.closeWrite(); c.getAll() },
		server: func(s *talk) { s.getAll() },
	}, {
		name:   "server answers before it has read everything, and closes",
		client: func(c *talk) { c.sendWhileReading(32 << 20) },
		server: func(s *talk) { s.get(10, 1); s.send(500, 2); s.closeWrite(); s.pause() },
	}, {
		name:   "data before accept",
		late:   true,
		client: func(c *talk) { c.send(5000, 1); c.closeWrite(); c.getAll() },
		server: func(s *talk) { s.getAll(); s.send(10, 2) },
	}, {
		name:   "server speaks first",
		client: func(c *talk) { c.get(100, 1); c.send(100, 2); c.getAll() },
		server: func(s *talk) { s.send(100, 1); s.get(100, 2) },
	}, {
		name:   "urgent data in line",
		client: func(c *talk) { c.urgent(); c.closeWrite(); c.getAll() },
		server: func(s *talk) { s.inLine(); s.getAll(); s.send(1, 1) },
	}, {
		name:   "urgent data",
		client: func(c *talk) { c.urgent(); c.closeWrite(); c.getAll() },
		server: func(s *talk) { s.getAll(); s.send(1, 1) },
	}, {
		name:   "large transfer with a hash",
		alone:  true,
		long:   true,
		client: func(c *talk) { c.note("hashes: %v", exchange(c, int64(scale(32, 1024))*mib, 1)) },
		server: func(s *talk) { s.note("hashes: %v", answerExchange(s)) },
	}, {
		name:   "many connections at once",
		alone:  true,
		many:   scale(300, 3000),
		client: func(c *talk) { c.send(1000, 1); c.get(1000, 2); c.closeWrite(); c.getAll() },
		server: func(s *talk) { s.get(1000, 1); s.send(1000, 2); s.getAll() },
	},
}

// getAllAfterPeer is like getAll, for an end that closes after its peer.
func (p *talk) getAllAfterPeer() {
	p.get(100_000, 2)
}

// broken waits for an error. On any path, connect may already return it: a race.
func (p *talk) broken() {
	_, err := p.Read(make([]byte, 1))
	p.note("%s", errorName(err))
}

// writeEvery is the pause of a slow writer.
const writeEvery = 100 * time.Millisecond

// timely reads bytes one at a time, and records those that were delayed behind others.
func (p *talk) timely(n int) {
	together := 0
	buf := make([]byte, 64)
	for got := 0; got < n; {
		k, err := p.Read(buf)
		if err != nil {
			p.note("read: %s", errorName(err))
			return
		}
		got += k
		if k > 4 { // half a second of them
			together++
		}
	}
	p.note("read %d, kept waiting: %d", n, together)
}

// sendWhileReading sends until an error, as a client of a web server uploads,
// and reads the answer meanwhile.
func (p *talk) sendWhileReading(n int64) {
	failed := make(chan string, 1)
	go func() {
		_, err := io.CopyN(p.TCPConn, noise(1), n)
		failed <- errorName(err)
	}()
	p.getAll()
	switch e := <-failed; e {
	case "EPIPE", "ECONNRESET": // which of the two is a race on any path
		p.note("write: EPIPE or ECONNRESET")
	default:
		p.note("write: %s", e)
	}
}

// TestOffloadCases runs the table on a bare loopback, in router mode and in endpoint mode, and
// compares what the programs saw.
func TestOffloadCases(t *testing.T) {
	manyFiles(t, 2*scale(300, 3000)+1000) // both ends
	o := onWire(t, "")
	o.compare(t, scenes)
	o.clean(t)
}

func (o *offloaded) compare(t *testing.T, scenes []scene) {
	loop := o.netns + "l"
	addNetns(t, loop)
	deadEnds(t, loop)
	bare := place{"loopback", loop, loop, [2]string{"127.0.0.1", "::1"}}
	wire := place{"endpoint", o.netns, o.far, [2]string{worldAddr, worldAddr6}}
	for family, name := range []string{"IPv4", "IPv6"} {
		want := showAll(t, scenes, bare, family)
		wire.name = "endpoint"
		got := showAll(t, scenes, wire, family)
		o.mode(t, "router", "")
		wire.name = "router"
		routed := showAll(t, scenes, wire, family)
		o.mode(t, "endpoint", "")
		for _, s := range scenes {
			t.Run(name+"/"+s.name, func(t *testing.T) { s.judge(t, want[s.name], routed[s.name], got[s.name]) })
		}
	}
}

func (s scene) judge(t *testing.T, bare, router, endpoint string) {
	if router != bare {
		t.Errorf("on the loopback:\n%s\nin router mode:\n%s", bare, router)
	}
	if endpoint != bare {
		t.Errorf("on the loopback:\n%s\nin endpoint mode:\n%s", bare, endpoint)
	}
	if strings.Contains(bare, "hangs") {
		t.Errorf("this case hangs on the loopback: %s", bare)
	}
}
