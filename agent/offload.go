package agent

import (
	"context"
	"reflect"
	"time"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/offload"
)

// endpoint is endpoint mode in force: an *offload.Endpoint, or a test's.
type endpoint interface {
	Configure(offload.Config) error
	Stats() offload.Stats
	Close() error
}

// startOffload is offload.Start with what only endpoint mode needs of the
// system before it: modules, open files and the kernel's bounds.
func startOffload(o Options) func(offload.Config) (endpoint, error) {
	return func(conf offload.Config) (endpoint, error) {
		if o.Modules != "" {
			loadModules(o.Log, o.Modules, endpointList)
		}
		sys := sysctls{o.Sysctl, o.Log}
		sys.allowFiles()
		sys.endpoint(memory().total)
		e, err := offload.Start(conf, o.Log.Sayf)
		if err != nil {
			return nil, err
		}
		return e, nil
	}
}

// offloadOf is what a configuration means for the endpoint.
func offloadOf(c *control.Config) offload.Config {
	b := c.Offload.Bypass
	out := offload.Config{Preserve: c.Offload.Preserve, MDNS: c.Offload.MDNS, Congestion: c.Offload.Congestion, Bypass: offload.Bypass{
		TCP: portRanges(b.TCP), UDP: portRanges(b.UDP), Addresses: b.Addresses,
	}}
	for _, d := range b.DSCP {
		out.Bypass.DSCP = append(out.Bypass.DSCP, uint8(d))
	}
	for _, l := range c.Links {
		out.Links = append(out.Links, l.Name)
	}
	for _, p := range c.Ports {
		out.Ports = append(out.Ports, p.Name)
	}
	for _, p := range c.Publish {
		pub := offload.Publish{Protocol: p.Protocol, Port: p.Port, CardSource: p.CardSource}
		for _, to := range p.To {
			if to.Addr().Is4() {
				pub.To4 = to
			} else {
				pub.To6 = to
			}
		}
		out.Publish = append(out.Publish, pub)
	}
	return out
}

func portRanges(list []control.PortRange) []offload.PortRange {
	var out []offload.PortRange
	for _, r := range list {
		out = append(out, offload.PortRange(r))
	}
	return out
}

// offloader is the card's endpoint mode, if it has one.
type offloader struct {
	start func(offload.Config) (endpoint, error)
	now   endpoint // nil in router mode and while it has not started
	err   error    // why it has not
}

// set makes the endpoint what a configuration asks for: started, changed or
// ended. The caller holds applying.
func (a *Agent) setOffload(c *control.Config) error {
	a.mu.Lock()
	e := a.offload.now
	a.mu.Unlock()
	if c.Endpoint() {
		a.sys.reservePorts(c) // before something else takes one
	}
	var err error
	switch {
	case !c.Endpoint():
		if e != nil {
			err = e.Close()
		}
		e = nil
	case e != nil:
		return e.Configure(offloadOf(c))
	default:
		e, err = a.offload.start(offloadOf(c))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.offload.now, a.offload.err = e, err
	return err
}

// clearOffload removes what the agent of before has left, if it was killed and
// the card went on: nobody listens where its rules send packets to.
func (a *Agent) clearOffload() {
	a.applying.Lock()
	defer a.applying.Unlock()
	a.mu.Lock()
	running := a.offload.now != nil
	a.mu.Unlock()
	if running {
		return // an Apply was quicker, and has replaced them
	}
	if err := offload.Clear(); err != nil {
		a.log.Sayf("what an earlier endpoint mode has left: %v", err)
	}
}

// keepOffloading starts endpoint mode, behind the firewall, and goes on
// trying where that fails. Until then the card routes, and says why.
func (a *Agent) keepOffloading(ctx context.Context) {
	said := ""
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		err := a.beginOffload(ctx)
		if err == nil {
			return
		}
		if err.Error() != said {
			said = err.Error()
			a.log.Sayf("endpoint mode: %v; the card routes in the meantime", err)
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// beginOffload begins nothing once ctx has ended: endOffload, which comes then,
// may have been here already.
func (a *Agent) beginOffload(ctx context.Context) error {
	a.applying.Lock()
	defer a.applying.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	a.mu.Lock()
	conf, running := a.conf, a.offload.now != nil
	a.mu.Unlock()
	if running || !conf.Endpoint() {
		return nil // an Apply was quicker
	}
	err := a.setOffload(conf)
	if err == nil {
		a.log.Printf("endpoint mode in force, %v after the kernel's start", uptime().Round(time.Millisecond))
	}
	return err
}

// endOffload gives every connection an error before the card goes.
func (a *Agent) endOffload() {
	a.applying.Lock()
	defer a.applying.Unlock()
	a.mu.Lock()
	e := a.offload.now
	a.offload.now = nil
	a.mu.Unlock()
	if e == nil {
		return
	}
	if err := e.Close(); err != nil {
		a.log.Printf("end of endpoint mode: %v", err)
	}
}

// planOffload is the step of a change that endpoint mode has part in.
func (a *Agent) planOffload(now, next *control.Config) []step {
	if now.Mode == next.Mode && (!next.Endpoint() || reflect.DeepEqual(offloadOf(now), offloadOf(next))) {
		return nil
	}
	what := "mode " + next.Mode
	if now.Mode == next.Mode {
		what = "what is bypassed and published"
	}
	return []step{{
		what,
		func() error { return a.setOffload(next) },
		func() error { return a.setOffload(now) },
	}}
}

// offloadHealth is nil in router mode. The caller holds mu.
func (a *Agent) offloadHealth() []reason {
	r := reason{component: "offload", state: healthy}
	switch {
	case !a.conf.Endpoint():
		return nil
	case a.offload.err != nil:
		r = r.with(degraded, a.offload.err.Error()+"; the card routes in the meantime")
	case a.offload.now == nil:
		r = r.with(starting, "endpoint mode is being started")
	}
	return []reason{r}
}

// offloadStatus is what endpoint mode has done.
func (a *Agent) offloadStatus() *cardpb.Offload {
	a.mu.Lock()
	e, mode := a.offload.now, a.conf.Mode
	a.mu.Unlock()
	out := &cardpb.Offload{Mode: mode, Running: e != nil}
	if e == nil {
		return out
	}
	s := e.Stats()
	out.Tcp = &cardpb.OffloadTCP{
		Open: s.TCP.Open, Opening: s.TCP.Opening, Opened: s.TCP.Opened, Published: s.TCP.Published,
		Refused: s.TCP.Refused, Unreachable: s.TCP.Unreachable, TimedOut: s.TCP.TimedOut, Reset_: s.TCP.Reset,
		FromHostBytes: s.TCP.FromHost, ToHostBytes: s.TCP.ToHost, Drops: s.TCP.Drops,
	}
	out.Udp = &cardpb.OffloadUDP{
		Flows: s.UDP.Flows, Opened: s.UDP.Opened, FromHost: s.UDP.FromHost, ToHost: s.UDP.ToHost,
		FromHostBytes: s.UDP.FromHostBytes, ToHostBytes: s.UDP.ToHostBytes, IcmpErrors: s.UDP.Errors, Drops: s.UDP.Drops,
	}
	return out
}
