package agent

import (
	"context"
	"reflect"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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

// offloadOf is what a configuration means for endpoint mode.
func offloadOf(c *control.Config) offload.Config {
	out := offload.Config{Preserve: c.Offload.Preserve, Offload: c.Offload.Offload}
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

// offloadPart is the card's endpoint mode.
type offloadPart struct {
	idle
	*env
	begin func(offload.Config) (endpoint, error)

	mu  sync.Mutex // guards what follows
	now endpoint   // nil in router mode and until it has started
	err error      // why it has not started
}

func newOffloadPart(e *env) *offloadPart {
	return &offloadPart{env: e, begin: startOffload(e.opts)}
}

func (o *offloadPart) running() endpoint {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

// set starts, changes or ends endpoint mode, as c asks. The caller holds
// applying.
func (o *offloadPart) set(c *control.Config) error {
	e := o.running()
	if c.Endpoint() {
		o.sys.reservePorts(c) // before something else takes one
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
		e, err = o.begin(offloadOf(c))
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now, o.err = e, err
	return err
}

func (o *offloadPart) start(ctx context.Context) {
	o.clear()
	o.spawn(func() { o.keepTrying(ctx) })
}

// clear removes what an earlier agent left, if it was killed and the card went
// on: nothing listens where its rules send packets.
func (o *offloadPart) clear() {
	o.applying.Lock()
	defer o.applying.Unlock()
	if o.running() != nil {
		return // an Apply was quicker, and has replaced them
	}
	if err := offload.Clear(); err != nil {
		o.log.Sayf("rest of an earlier endpoint mode: %v", err)
	}
}

// keepTrying starts endpoint mode, and tries again where that fails. Until
// then the card routes, and reports why.
func (o *offloadPart) keepTrying(ctx context.Context) {
	said := ""
	for pause := time.Second; ; pause = min(2*pause, 30*time.Second) {
		err := o.try(ctx)
		if err == nil {
			return
		}
		if err.Error() != said {
			said = err.Error()
			o.log.Sayf("endpoint mode: %v; the card routes in the meantime", err)
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// try starts nothing after ctx has ended: close may have run already.
func (o *offloadPart) try(ctx context.Context) error {
	o.applying.Lock()
	defer o.applying.Unlock()
	if ctx.Err() != nil {
		return nil
	}
	conf := o.config()
	if o.running() != nil || !conf.Endpoint() {
		return nil // an Apply was quicker
	}
	err := o.set(conf)
	if err == nil {
		o.log.Printf("endpoint mode in force, %v after the kernel's start", uptime().Round(time.Millisecond))
	}
	return err
}

// close gives every connection an error before the card goes.
func (o *offloadPart) close() {
	o.mu.Lock()
	e := o.now
	o.now = nil
	o.mu.Unlock()
	if e == nil {
		return
	}
	if err := e.Close(); err != nil {
		o.log.Printf("end of endpoint mode: %v", err)
	}
}

func (o *offloadPart) plan(now, next *control.Config) ([]step, error) {
	if now.Mode == next.Mode && (!next.Endpoint() || reflect.DeepEqual(offloadOf(now), offloadOf(next))) {
		return nil, nil
	}
	what := "mode " + next.Mode
	if now.Mode == next.Mode {
		what = "what is bypassed and published"
	}
	return []step{{
		what,
		func() error { return o.set(next) },
		func() error { return o.set(now) },
	}}, nil
}

func (o *offloadPart) rules(c *control.Config, r *rules) {
	r.endpoint = c.Endpoint()
	r.mdns = c.Endpoint() && c.Offload.MDNS
	for _, p := range c.Publish {
		w := wirePort{unix.IPPROTO_TCP, p.Port}
		if p.Protocol == control.UDP {
			w.protocol = unix.IPPROTO_UDP
		}
		r.published = append(r.published, w)
	}
}

// health is empty in router mode.
func (o *offloadPart) health() []reason {
	r := reason{component: "offload", state: healthy}
	endpoint := o.config().Endpoint()
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case !endpoint:
		return nil
	case o.err != nil:
		r = r.with(degraded, o.err.Error()+"; the card routes in the meantime")
	case o.now == nil:
		r = r.with(starting, "endpoint mode is being started")
	}
	return []reason{r}
}

func (o *offloadPart) status(out *cardpb.StatusResponse) {
	for _, mode := range []string{control.ModeEndpoint, control.ModeRouter} {
		out.Capabilities = append(out.Capabilities, control.CapMode+mode)
	}
	e := o.running()
	st := &cardpb.Offload{Mode: o.config().Mode, Running: e != nil}
	out.Offload = st
	if e == nil {
		return
	}
	s := e.Stats()
	st.SystemCalls = s.SystemCalls
	st.Tcp = &cardpb.OffloadTCP{
		Open: s.TCP.Open, Opening: s.TCP.Opening, Opened: s.TCP.Opened, Published: s.TCP.Published,
		Refused: s.TCP.Refused, Unreachable: s.TCP.Unreachable, TimedOut: s.TCP.TimedOut, Reset_: s.TCP.Reset,
		FromHostBytes: s.TCP.FromHost, ToHostBytes: s.TCP.ToHost, Drops: s.TCP.Drops,
	}
	st.Udp = &cardpb.OffloadUDP{
		Flows: s.UDP.Flows, Opened: s.UDP.Opened, FromHost: s.UDP.FromHost, ToHost: s.UDP.ToHost,
		FromHostBytes: s.UDP.FromHostBytes, ToHostBytes: s.UDP.ToHostBytes,
		IcmpErrors: s.UDP.Errors, Drops: s.UDP.Drops,
	}
}
