package e2e

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/toe-project/toe/card"
)

// TestOffloadScale is an endpoint with much to do: bytes, connections at once,
// and connections one after the other.
func TestOffloadScale(t *testing.T) {
	o := onWire(t, "")
	w := newWorld(t, o.far)
	for _, port := range churnPorts {
		w.serveTCP(t, ":"+port, echoSmall)
	}
	for _, step := range []struct {
		name string
		walk func(*offloaded, *testing.T)
	}{
		{"bulk", (*offloaded).bulkBytes},
		{"many at once", (*offloaded).manyAtOnce},
		{"churn", (*offloaded).churn},
	} {
		t.Run(step.name, func(t *testing.T) { step.walk(o, t) })
	}
	o.clean(t)
}

// churnPorts are several, because a client has 28,000 ports for each.
var churnPorts = []string{"1001", "1002", "1003", "1004", "1005", "1006", "1007", "1008"}

// echoSmall needs no descriptors beside the connection's own.
func echoSmall(c net.Conn) {
	buf := make([]byte, 64)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if _, err := c.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (o *offloaded) bulkBytes(t *testing.T) {
	size := int64(scale(256, 4096)) * mib
	before := counters(t, o.netns)
	took := o.exchange(t, worldAddr, size)
	after := counters(t, o.netns)
	t.Logf("%d MiB each way with equal hashes in %s; the host sent %d segments, %d of them again", size/mib, took.Round(time.Millisecond),
		after["Tcp.OutSegs"]-before["Tcp.OutSegs"], after["Tcp.RetransSegs"]-before["Tcp.RetransSegs"])
}

// ask sends a few bytes and wants them back.
func ask(c net.Conn, text string) error {
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	buf := make([]byte, len(text))
	for at := 0; at < len(buf); {
		n, err := c.Read(buf[at:])
		if err != nil {
			return err
		}
		at += n
	}
	if string(buf) != text {
		return fmt.Errorf("%q came back as %q", text, buf)
	}
	return nil
}

// workers runs f for 0 to n-1 from some threads of the host's namespace.
func (o *offloaded) workers(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	const threads = 16
	errs := make([]error, threads)
	var all sync.WaitGroup
	for k := range threads {
		all.Go(func() {
			errs[k] = inNetns(o.netns, func() error {
				for i := k; i < n; i += threads {
					if err := f(i); err != nil {
						return fmt.Errorf("number %d of %d: %w", i, n, err)
					}
				}
				return nil
			})
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (o *offloaded) dial(i int) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: -1}
	return d.Dial("tcp", net.JoinHostPort(worldAddr, churnPorts[i%len(churnPorts)]))
}

// open waits until the card has that many connections.
func (o *offloaded) open(t *testing.T, n int) card.Status {
	t.Helper()
	return o.await(t, "card0", 30*time.Second, fmt.Sprintf("%d open connections", n), func(st card.Status) error {
		if st.Offload.TCP == nil || int(st.Offload.TCP.Open) != n {
			return fmt.Errorf("%+v", st.Offload.TCP)
		}
		return nil
	})
}

// use is what the card and its agent need at a moment.
type use struct{ available, agent, files int64 } // KiB, KiB, descriptors

func (o *offloaded) use(t *testing.T) use {
	t.Helper()
	return use{
		available: o.procFile(t, "card0", "meminfo")["MemAvailable"],
		agent:     o.procFile(t, "card0", "1/status")["VmRSS"],
		files:     int64(o.lines(t, "card0", "ls", "/proc/1/fd")),
	}
}

// manyAtOnce opens many connections, leaves them idle, and finds them alive.
func (o *offloaded) manyAtOnce(t *testing.T) {
	n := scale(1000, 10_000)
	manyFiles(t, 3*n+1000)
	before := o.use(t)
	conns := make([]net.Conn, n)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	began := time.Now()
	o.workers(t, n, func(i int) (err error) {
		if conns[i], err = o.dial(i); err == nil {
			err = ask(conns[i], "first")
		}
		return err
	})
	took := time.Since(began)
	o.open(t, n)
	during := o.use(t)
	t.Logf("%d connections opened in %s, %.0f a second; idle, each needs %.1f KiB of the card's memory, %.1f of that the agent's, and %.1f descriptors", n,
		took.Round(time.Millisecond), float64(n)/took.Seconds(), float64(before.available-during.available)/float64(n),
		float64(during.agent-before.agent)/float64(n), float64(during.files-before.files)/float64(n))
	o.workers(t, n, func(i int) error { return ask(conns[i], "again") })
	for _, c := range conns {
		c.Close()
	}
	o.open(t, 0)
	after := o.use(t)
	t.Logf("before %+v, open %+v, closed %+v", before, during, after)
	if each := float64(before.available-during.available) / float64(n); each > 16 {
		t.Errorf("an idle connection needs %.1f KiB of the card, its bound allows 16", each)
	}
	if after.files > before.files+2*sparePipes {
		t.Errorf("the agent has %d descriptors, %d before", after.files, before.files)
	}
}

// sparePipes is how many pipes an endpoint may keep.
const sparePipes = 32

// churn opens and closes connections, one after the other on each thread.
func (o *offloaded) churn(t *testing.T) {
	n := scale(2000, 100_000)
	once := func(i int) error {
		c, err := o.dial(i)
		if err != nil {
			return err
		}
		defer c.Close()
		return ask(c, "hello")
	}
	o.workers(t, 500, once)
	o.open(t, 0)
	before := o.use(t)
	opened := o.status(t, "card0").Offload.TCP.Opened
	began := time.Now()
	o.workers(t, n, once)
	took := time.Since(began)
	st := o.open(t, 0)
	after := o.use(t)
	t.Logf("%d connections in %s: %.0f a second; before %+v, after %+v; drops %v", n, took.Round(time.Millisecond), float64(n)/took.Seconds(), before, after, st.Offload.TCP.Drops)
	if got := int(st.Offload.TCP.Opened - opened); got != n {
		t.Errorf("the card has opened %d connections, want %d", got, n)
	}
	if after.files > before.files+2*sparePipes || after.agent > before.agent+12<<10 {
		t.Errorf("left over: before %+v, after %+v", before, after)
	}
}
