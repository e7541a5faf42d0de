package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The networks of a world behind a bad path: the router is a card, because not
// every host's kernel has netem.
const (
	pathAddr = "198.51.100.2" // of the router, towards the world
	farAddr  = "198.51.100.1" // of the world
	farNet   = "198.51.100.0/24"
)

// badPath is an endpoint, a router whose ports can be made bad, and a world:
//
//	host ═ link ═ card0 ─ wan0 ─ bridge ─ west0 ─ router ─ east0 ─ world
func badPath(t *testing.T) *offloaded {
	t.Helper()
	h := newHost(t)
	o := &offloaded{host: h, far: h.netns + "w"}
	middle := h.netns + "m"
	addNetns(t, o.far)
	addNetns(t, middle)
	addTAP(t, middle, "wan0")
	addTAP(t, middle, "west0")
	ip(t, "-n", middle, "link", "add", "br0", "type", "bridge")
	for _, dev := range []string{"wan0", "west0"} {
		ip(t, "-n", middle, "link", "set", dev, "master", "br0")
	}
	ip(t, "-n", middle, "link", "set", "br0", "up")
	addTAP(t, o.far, "east0", farAddr+"/24")
	ip(t, "-n", o.far, "route", "add", worldNet, "via", pathAddr)
	nameServer(t, h.netns, worldAddr)
	o.up(t, "router", fmt.Sprintf(`machine: {kind: uml}
offload: {mode: router}
link: {interface: toe1, exec: false}
ports:
  - {name: west, attach: "netns:%s/west0", addresses: [%s/24]}
  - {name: east, attach: "netns:%s/east0", addresses: [%s/24]}
`, middle, worldAddr, o.far, pathAddr))
	o.up(t, "card0", o.badSpec("mode: endpoint"))
	o.push(t, "router")
	o.push(t, "card0")
	for _, args := range [][]string{{"open"}, {"plain", "west"}, {"plain", "east"}} {
		o.tune(t, "router", args...)
	}
	o.tune(t, "card0", "plain", "wan")
	if err := inNetns(o.far, func() error { return plain("east0") }); err != nil {
		t.Fatal(err)
	}
	newWorld(t, o.far)
	return o
}

func (o *offloaded) badSpec(offload string) string {
	return fmt.Sprintf(`machine: {kind: uml}
link: {interface: toe0, default_route: true}
offload: {%s}
ports:
  - {name: wan, attach: "netns:%sm/wan0", addresses: [%s/24], gateway: [%s]}
`, offload, o.netns, cardAddr, worldAddr)
}

// TestOffloadBadPath degrades the wire in several ways. The host notices nothing.
func TestOffloadBadPath(t *testing.T) {
	o := badPath(t)
	for _, step := range []struct {
		name string
		walk func(*offloaded, *testing.T)
	}{
		{"corruption", (*offloaded).corruption},
		{"loss", (*offloaded).loss},
		{"black hole", (*offloaded).blackHole},
	} {
		t.Run(step.name, func(t *testing.T) { step.walk(o, t) })
	}
	o.clean(t)
}

// netem degrades both directions of the path.
func (o *offloaded) netem(t *testing.T, loss, delay, corrupt string) {
	t.Helper()
	for _, dev := range []string{"west", "east"} {
		o.tune(t, "router", "netem", dev, loss, delay, corrupt)
	}
}

// again returns how many segments the host has retransmitted. SYNs do not count: the card holds a
// SYN until the remote has answered, so a loss on the wire delays its answer, too.
func (o *offloaded) again(t *testing.T) int64 {
	c := counters(t, o.netns)
	return c["Tcp.RetransSegs"] - c["TcpExt.TCPSynRetrans"]
}

// corruption flips a bit in some packets. The card drops them: the host gets correct data, and its
// own counters stay at 0.
func (o *offloaded) corruption(t *testing.T) {
	o.netem(t, "0", "0s", "1")
	defer o.netem(t, "0", "0s", "0")
	before := o.again(t)
	w := watchOn(t, o.netns+"m", "wan0", true)
	took := o.exchange(t, farAddr, 8*mib)
	w.settle()
	s := w.end()
	t.Logf("8 MiB each way in %s; corrupt packets to the card: %d of %d", took.Round(time.Millisecond), s.badOut, s.packets)
	if s.badOut == 0 {
		t.Error("the card met no corrupt packet: nothing was shown")
	}
	if s.bad != s.badOut {
		t.Errorf("%d corrupt packets came from the card: %s", s.bad-s.badOut, s.badExample)
	}
	if n := o.again(t) - before; n > patience {
		t.Errorf("the host has sent %d segments again", n)
	}
	o.clean(t)
}

// loss drops 1 % and delays by 20 ms, half of that each way. The host retransmits nothing. Router
// mode shows the same path without an endpoint. Congestion control runs on another machine in each
// mode: both are shown with both algorithms.
func (o *offloaded) loss(t *testing.T) {
	o.netem(t, "1", "10ms", "0")
	defer o.netem(t, "0", "0s", "0")
	for _, mode := range []string{"router", "endpoint"} {
		for _, control := range []string{"cubic", "bbr"} {
			offload := "mode: " + mode
			if mode == "endpoint" { // the wire's sender is the card; rate sets the host's sockets
				offload += ", congestion: " + control
			}
			o.apply(t, offload)
			card, began := o.cardAgain(t), time.Now()
			host := o.again(t) // last before, and first after: a query of the card is traffic, too
			up, down := o.rate(t, control)
			host = o.again(t) - host
			card = o.cardAgain(t) - card
			t.Logf("1 %% loss, 20 ms, %s, %s mode: %.1f Mbit/s from the host, %.1f to it; sent again: %d by the host, %d by the card",
				control, mode, up, down, host, card)
			if allowed := patience/2 + int64(time.Since(began)/(10*time.Second)); mode == "endpoint" && (host > allowed || card <= host) {
				t.Errorf("endpoint mode, %s: the host has sent %d segments again, want none and at most %d; the card %d, want some", control, host, allowed, card)
			}
		}
	}
	o.apply(t, "mode: endpoint")
}

func (o *offloaded) cardAgain(t *testing.T) int64 {
	return parseCounters(o.onCard(t, "card0", "cat", "/proc/net/snmp"))["Tcp.RetransSegs"]
}

func (o *offloaded) apply(t *testing.T, offload string) {
	t.Helper()
	o.run(t, quick, 0, "apply", "card0", "-f", o.spec(t, "card0.yaml", o.badSpec(offload)))
}

// rate returns the throughput of one connection in each direction, in Mbit/s. The clock stops when
// the other end has everything.
func (o *offloaded) rate(t *testing.T, control string) (up, down float64) {
	t.Helper()
	size := int64(scale(2, 32)) * mib
	set := func(_, _ string, c syscall.RawConn) (err error) {
		_ = c.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.SOL_TCP, unix.TCP_CONGESTION, control) })
		return err
	}
	var l net.Listener
	if err := inNetns(o.far, func() (err error) {
		l, err = (&net.ListenConfig{Control: set}).Listen(t.Context(), "tcp", farAddr+":0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i, rate := range []*float64{&up, &down} {
		done := make(chan error, 1)
		go func() { done <- serveRate(l, i == 0, size) }()
		ctx, cancel := context.WithTimeout(context.Background(), quick)
		defer cancel()
		var c net.Conn
		err := inNetns(o.netns, func() (err error) {
			c, err = (&net.Dialer{Control: set}).DialContext(ctx, "tcp", l.Addr().String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(3 * time.Minute))
		began := time.Now()
		if i == 0 {
			_, err = io.CopyN(c, noise(1), size)
			if err == nil {
				_, err = io.ReadFull(c, make([]byte, 1)) // everything is there
			}
		} else {
			_, err = io.CopyN(io.Discard, c, size)
		}
		*rate = float64(size) * 8 / 1e6 / time.Since(began).Seconds()
		c.Close()
		if served := <-done; err != nil || served != nil {
			t.Fatalf("transfer: %v, %v", err, served)
		}
	}
	return up, down
}

func serveRate(l net.Listener, receive bool, size int64) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Minute))
	if receive {
		if _, err = io.CopyN(io.Discard, c, size); err == nil {
			_, err = c.Write([]byte("!"))
		}
		return err
	}
	_, err = io.CopyN(c, noise(1), size)
	return err
}

// patience is how many segments the host may retransmit although nothing was lost: on an overloaded
// machine a card may be silent for longer than the kernel's time-out of 200 ms. See
// docs/offload.md.
const patience = 8

// blackHole lets only packets of 1280 bytes through, and sends no ICMP.
func (o *offloaded) blackHole(t *testing.T) {
	o.tune(t, "router", "mtu", "east", "1280")
	o.tune(t, "router", "mute")
	before := o.again(t)
	w := watchOn(t, o.far, "east0", true)
	took := o.exchange(t, farAddr, 4*mib)
	w.settle()
	s := w.end()
	t.Logf("4 MiB each way in %s, payload of at most %d bytes a segment", took.Round(time.Millisecond), s.in.largest)
	if s.in.largest > 1240 || s.bad != 0 {
		t.Errorf("behind the black hole: %+v", s)
	}
	if n := o.again(t) - before; n > patience {
		t.Errorf("the host has sent %d segments again", n)
	}
}
