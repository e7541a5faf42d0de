package bench

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
)

// ways are TCP's two directions as BenchServe names them.
var ways = []struct {
	name string
	mode byte
}{{"to-card", 'i'}, {"to-host", 'o'}}

// measureLink runs a card and its traffic: over the link as it is, and over the
// same link held to packets of 1500 bytes.
func measureLink(ctx context.Context, r *run) (err error) {
	if lo, err := netlink.LinkByName("lo"); err != nil {
		return err
	} else if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	c, err := r.measureReady(ctx)
	if c != nil {
		defer func() { err = errors.Join(err, c.down()) }()
	}
	if err != nil {
		return err
	}
	r.report.Host.Machine, r.report.Host.Card = string(c.status.Machine.Kind), c.status.Firmware.Kernel
	r.measureMemory(c)
	if err := c.listen(ctx); err != nil {
		return err
	}
	if err := r.measureRoundTrip(ctx, c); err != nil {
		return err
	}
	for _, way := range ways {
		for _, streams := range []int{1, 4} {
			if err := r.measureFlow(ctx, c, "link", way.name, way.mode, streams); err != nil {
				return err
			}
		}
	}
	r.notMeasured()
	return r.measureSmall(ctx, c)
}

// notMeasured names what the aims ask for and this program cannot do yet.
func (r *run) notMeasured() {
	r.skip("plain1500", "packets of 1500 bytes without TSO need the offloads of both ends switched off, which this program does not do")
	r.skip("tap", "the same card on QEMU's own tap is not started by this program")
	r.skip("passt", "the same card on passt in vhost-user mode is not started by this program")
	r.skip("bare-start", "the bare machine to its first user process is not timed by this program")
	r.skip("small-packets", "the rate of 64 byte datagrams over the link is not measured; see pump/*/64 for the pump's share")
}

// measureReady starts and stops the card, and leaves it running at last.
func (r *run) measureReady(ctx context.Context) (c *testCard, err error) {
	stage := r.Progress.Stage("toe up, until the card is ready", int64(r.Rounds+1))
	defer func() { stage.Fail(err) }()
	var rounds, own []float64
	for i := range r.Rounds + 1 {
		card, took, err := r.up(ctx)
		if err != nil {
			return nil, errors.Join(err, card.down())
		}
		stage.Add(1)
		if i > 0 { // the first may have built firmware
			rounds = append(rounds, took.Seconds())
			own = append(own, card.status.ReadySeconds)
		}
		c = card
		if i < r.Rounds {
			if err := card.down(); err != nil {
				return nil, err
			}
		}
	}
	r.add("up/ready", "s", rounds).Note = "from the command to its end"
	r.add("up/supervisor-ready", "s", own).Note = "as the supervisor counts"
	return c, nil
}

// measureMemory reads what is resident, in MiB.
func (r *run) measureMemory(c *testCard) {
	for _, p := range []struct {
		name string
		pid  int
	}{{"pump", c.status.Pump.PID}, {"supervisor", c.status.Supervisor.PID}, {"machine", c.status.Machine.PID}} {
		if mib, ok := resident(p.pid); ok {
			r.add("memory/"+p.name, "MiB", []float64{mib})
		} else {
			r.skip("memory/"+p.name, fmt.Sprintf("process %d does not say", p.pid))
		}
	}
}

func resident(pid int) (mib float64, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	var size, pages int
	if err == nil {
		_, err = fmt.Sscan(string(b), &size, &pages)
	}
	return float64(pages) * float64(os.Getpagesize()) / (1 << 20), err == nil
}

func (r *run) measureRoundTrip(ctx context.Context, c *testCard) error {
	n := 5000
	if r.Quick {
		n = 1000
	}
	stage := r.Progress.Stage("round trips", int64(r.Rounds))
	defer stage.Done("")
	var rounds []float64
	for range r.Rounds {
		v, err := c.roundTrip(ctx, n)
		if err != nil {
			return err
		}
		rounds = append(rounds, v)
		stage.Add(1)
	}
	r.add("link/round-trip", "µs", rounds)
	return nil
}

// measureFlow measures one way with a number of connections.
func (r *run) measureFlow(ctx context.Context, c *testCard, group, way string, mode byte, streams int) error {
	name := fmt.Sprintf("%s/%s/%d/", group, way, streams)
	stage := r.Progress.Stage("traffic "+name, int64(r.Rounds))
	defer stage.Done("")
	var speed, first, pump, host []float64
	for range r.Rounds {
		f, err := c.traffic(ctx, mode, streams)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		speed, first = append(speed, f.gbit()), append(first, f.firstSecond())
		pump, host = append(pump, f.pumpPerGiB()), append(host, f.hostPerGiB())
		stage.Add(1)
	}
	r.add(name+"throughput", "Gbit/s", speed)
	r.add(name+"first-second", "Gbit/s", first)
	res := r.add(name+"pump-cpu", "s/GiB", pump)
	if unit, ok := r.find("copy/64KiB-cold"); ok {
		res.lower(unit.Rounds, "cold copy of 64 KiB")
	}
	r.add(name+"host-cpu", "s/GiB", host)
	return nil
}

// measureSmall holds the same link to packets of 1500 bytes on the host's
// side, offloads on, and sets the link beside that.
func (r *run) measureSmall(ctx context.Context, c *testCard) error {
	const mtu = 1500
	l, err := netlink.LinkByName(c.status.Link.Interface)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(l, mtu); err != nil {
		return err
	}
	for _, way := range ways {
		if err := r.measureFlow(ctx, c, "mtu1500-tso", way.name, way.mode, 1); err != nil {
			return err
		}
		for _, what := range []string{"throughput", "host-cpu"} {
			r.against("link/"+way.name+"/1/"+what, "mtu1500-tso/"+way.name+"/1/"+what, what == "throughput")
		}
	}
	return nil
}

// against sets one figure beside another.
func (r *run) against(name, other string, higher bool) {
	base, ok := r.find(other)
	if !ok {
		return
	}
	for i := range r.report.Results {
		res := &r.report.Results[i]
		switch {
		case res.Name != name:
		case higher:
			res.higher(base.Rounds, other)
		default:
			res.lower(base.Rounds, other)
		}
	}
}
