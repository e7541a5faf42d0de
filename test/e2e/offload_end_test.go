package e2e

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// deadLimit is the maximum time until the ends of a connection notice that the card between them
// has died: a new card has started, and a segment was repeated.
const deadLimit = 10 * time.Second

// TestOffloadKilled kills the card's machine under connections.
func TestOffloadKilled(t *testing.T) {
	o := onWire(t, "")
	w := newWorld(t, o.far)
	// The outcome at the world's end of each.
	world := map[string]chan error{"18": make(chan error, 1), "19": make(chan error, 1), "20": make(chan error, 1)}
	w.serveTCP(t, ":18", func(c net.Conn) { _, err := io.Copy(io.Discard, c); world["18"] <- err })
	w.serveTCP(t, ":19", func(c net.Conn) { _, err := io.Copy(struct{ io.Writer }{c}, noise(1)); world["19"] <- err })
	w.serveTCP(t, ":20", func(c net.Conn) { world["20"] <- beat(c) })
	host := map[string]chan error{}
	for port, what := range map[string]func(net.Conn) error{
		"18": func(c net.Conn) error { _, err := io.Copy(struct{ io.Writer }{c}, noise(1)); return err },
		"19": func(c net.Conn) error { _, err := io.Copy(io.Discard, c); return err },
		"20": func(c net.Conn) error { _, err := io.ReadFull(c, make([]byte, 1<<20)); return err },
	} {
		c, err := dialIn(o.netns, "tcp", net.JoinHostPort(worldAddr, port), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		ended := make(chan error, 1)
		host[port] = ended
		go func() { ended <- what(c) }()
	}
	time.Sleep(time.Second) // in progress
	before := o.status(t, "card0")
	kill(t, before.Machine.PID)
	died := time.Now()
	for _, port := range []string{"18", "19", "20"} {
		within(t, "the host's end of port "+port, died, host[port])
	}
	for _, port := range []string{"19", "20"} {
		within(t, "the world's end of port "+port, died, world[port])
	}
	// A reader of a machine that died gets no message. This is true of every machine; keepalive
	// detects it.
	select {
	case err := <-world["18"]:
		t.Logf("the world's end of port 18, which only reads: %v", err)
	case <-time.After(time.Second):
		t.Log("the world's end of port 18 only reads, and has heard nothing")
	}
	o.healthyAgain(t)
	if took := o.exchange(t, worldAddr, mib); took > quick {
		t.Errorf("after the restart 1 MiB took %s", took)
	}
	o.clean(t)
}

// beat writes a few bytes now and then, like a program that keeps its connection alive.
func beat(c net.Conn) error {
	for {
		if _, err := c.Write([]byte("beat")); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func within(t *testing.T, who string, since time.Time, ended chan error) {
	t.Helper()
	select {
	case err := <-ended:
		t.Logf("%s: %s after %s", who, errorName(orEOF(err)), time.Since(since).Round(10*time.Millisecond))
		if err == nil {
			t.Errorf("%s ended in order", who)
		}
	case <-time.After(time.Until(since.Add(deadLimit))):
		t.Errorf("%s has heard nothing for %s", who, deadLimit)
	}
}

func (o *offloaded) healthyAgain(t *testing.T) {
	t.Helper()
	until(t, time.Minute, "a healthy card", func() error {
		if st := o.status(t, "card0"); st.State != "healthy" || !st.Offload.Running {
			return fmt.Errorf("%s %v", st.State, st.Reasons)
		}
		return nil
	})
}
