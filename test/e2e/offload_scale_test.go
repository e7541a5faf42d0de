package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
)

// TestOffloadScale loads an endpoint: with bytes, with many connections at once, and with many in
// sequence.
func TestOffloadScale(t *testing.T) {
	o := onWire(t, "")
	newWorld(t, o.far)
	echoes(t, o.far)
	for _, step := range []struct {
		name string
		walk func(*offloaded, *testing.T)
	}{
		{"bulk", (*offloaded).bulkBytes},
		{"many at once", (*offloaded).manyAtOnce},
		{"readers that sleep", (*offloaded).sleepers},
		{"churn", (*offloaded).churn},
	} {
		t.Run(step.name, func(t *testing.T) { step.walk(o, t) })
	}
	o.clean(t)
}

// churnPorts has several ports, because a client has 28,000 ports of its own for each.
var churnPorts = []string{"1001", "1002", "1003", "1004", "1005", "1006", "1007", "1008"}

// echoes is a process of its own: both ends of 10,000 connections exceed the descriptor limit of
// one process on some machines.
func echoes(t *testing.T, netns string) (kill func()) {
	t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", netns, self}, churnPorts...)...)
	cmd.Env = append(os.Environ(), roleVariable+"=echo")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	kill = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(kill)
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatalf("the server of echoes: %v", err)
	}
	return kill
}

// playEcho serves on ports, and writes a byte when it is ready.
func playEcho(ports []string) error {
	failed := make(chan error, 1)
	for _, port := range ports {
		l, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					failed <- err
					return
				}
				go func() { defer c.Close(); echoSmall(c) }()
			}
		}()
	}
	fmt.Print("!")
	return <-failed
}

// echoSmall uses no descriptor but the connection's own.
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

// open waits until the card has n connections.
func (o *offloaded) open(t *testing.T, n int) status.Status {
	t.Helper()
	return o.await(t, "card0", 2*time.Minute, fmt.Sprintf("%d open connections", n), func(st status.Status) error {
		if st.Offload.TCP == nil || int(st.Offload.TCP.Open) != n {
			return fmt.Errorf("%+v", st.Offload.TCP)
		}
		return nil
	})
}

// use is the memory and the descriptors of the card and its agent at a moment.
type use struct{ available, agent, files int64 } // KiB, KiB, descriptors

func (o *offloaded) use(t *testing.T) use {
	t.Helper()
	return use{
		available: o.procFile(t, "card0", "meminfo")["MemAvailable"],
		agent:     o.procFile(t, "card0", "1/status")["VmRSS"],
		files:     o.agentFiles(t),
	}
}

// agentFiles returns the number of the agent's descriptors. ls reports errors for those that close
// meanwhile.
func (o *offloaded) agentFiles(t *testing.T) int64 {
	t.Helper()
	n, err := strconv.ParseInt(strings.TrimSpace(o.onCard(t, "card0", "ls /proc/1/fd 2>/dev/null | wc -l")), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// manyAtOnce opens many connections, leaves them idle, and checks that they are alive.
func (o *offloaded) manyAtOnce(t *testing.T) {
	const n = 10_000
	manyFiles(t, n+1000)
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

// sleepers are servers that never read while clients write all they can. The card's buffers are
// bounded: it survives, and serves others.
func (o *offloaded) sleepers(t *testing.T) {
	n := scale(100, 500)
	manyFiles(t, 3*n+1000)
	l := world{o.far}.listen(t, ":1009")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	before, first := o.use(t), counters(t, o.netns)
	conns, sent := make([]net.Conn, n), make([]int, n)
	o.workers(t, n, func(i int) (err error) {
		d := net.Dialer{Timeout: 30 * time.Second, KeepAlive: -1}
		conns[i], err = d.Dial("tcp", net.JoinHostPort(worldAddr, "1009"))
		return err
	})
	var all sync.WaitGroup
	for i, c := range conns {
		defer c.Close()
		all.Go(func() {
			_ = c.SetWriteDeadline(time.Now().Add(3 * time.Second))
			buf := make([]byte, 64<<10)
			for {
				k, err := c.Write(buf)
				sent[i] += k
				if err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	total := 0
	for _, k := range sent {
		total += k
	}
	during, last := o.use(t), counters(t, o.netns)
	t.Logf("the host sent %d segments, %d of them again",
		last["Tcp.OutSegs"]-first["Tcp.OutSegs"], last["Tcp.RetransSegs"]-first["Tcp.RetransSegs"])
	began := time.Now()
	o.workers(t, 16, func(i int) error {
		c, err := o.dial(i)
		if err != nil {
			return err
		}
		defer c.Close()
		return ask(c, "hello")
	})
	t.Logf("%d connections to readers that sleep took %d MiB from their writers; the card has %d of %d MiB left; 16 others were served in %s",
		n, total/mib, during.available>>10, before.available>>10, time.Since(began).Round(time.Millisecond))
	if during.available < 16<<10 {
		t.Errorf("the card has %d KiB of memory left", during.available)
	}
	for _, c := range conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	l.Close()
	o.healthyAgain(t)
}

// churn opens and closes connections, one after the other on each thread.
func (o *offloaded) churn(t *testing.T) {
	n := scale(10_000, 100_000)
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
	machine := o.status(t, "card0").Machine.PID
	began, busy := time.Now(), cpuTime(t, machine)
	o.workers(t, n, once)
	took := time.Since(began)
	st := o.open(t, 0)
	busy = cpuTime(t, machine) - busy
	after := o.use(t)
	t.Logf("each took %s of the card's CPU", (busy / time.Duration(n)).Round(10*time.Microsecond))
	t.Logf("%d connections in %s: %.0f a second; before %+v, after %+v; drops %v", n, took.Round(time.Millisecond), float64(n)/took.Seconds(), before, after, st.Offload.TCP.Drops)
	if got := int(st.Offload.TCP.Opened - opened); got != n {
		t.Errorf("the card has opened %d connections, want %d", got, n)
	}
	if after.files > before.files+2*sparePipes || after.agent > before.agent+12<<10 {
		t.Errorf("left over: before %+v, after %+v", before, after)
	}
}

// cpuTime returns the CPU time of a process and its descendants (proc_pid_stat(5)).
func cpuTime(t *testing.T, root int) time.Duration {
	t.Helper()
	var ticks int64
	for pid := range descendants(root) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		if f := strings.Fields(rest); len(f) > 12 {
			for _, v := range f[11:13] {
				n, _ := strconv.ParseInt(v, 10, 64)
				ticks += n
			}
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
