// Package agent is the card's own program. It brings up links and ports,
// forwards, answers DNS, keeps the time, serves the control API and ssh, and
// reports the card's health. As PID 1 it is the card's init, too (Init).
//
// What a card does is divided into parts (part.go). The links and the control
// API start first, because the host waits for them; the other parts follow.
package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
)

// Action is how a run of the agent ends.
type Action string

// The ends of a run.
const (
	Stopped  Action = "stopped" // its context has ended
	Reboot   Action = "reboot"
	PowerOff Action = "power off"
)

// Options are what an agent needs from its surroundings.
type Options struct {
	Config  *control.Config
	Keys    control.Keys // the card's part
	Version string
	Image   string // of the firmware, as control.ImagePath has it; may be empty
	Log     *Log
	Sysctl  string // root of the kernel's settings, normally /proc/sys
	Resolv  string // the file of the card's own resolver, normally /etc/resolv.conf
	// SetHostname is sethostname(2) on a card.
	SetHostname func(name string) error
	// Modules is where the lists of kernel modules are, normally /lib/modules;
	// empty where nothing needs loading.
	Modules string
	// Service: the agent is a service of the init of a root on a disk, whose OpenSSH serves port 22.
	Service bool
	// NoRoot is why a card with such a root runs without it.
	NoRoot error
	// Cmdline is that of the kernel. It names the slot of the flash that runs.
	Cmdline string
	// Linked is called after the first try to bring up the links; it may be nil.
	Linked func()
}

// Agent is one run of a card.
type Agent struct {
	*env
	ended    chan Action
	captures chan struct{} // one element a capture that runs
}

// New prepares an agent. It touches nothing before Run. Errors: a
// configuration or a key that is not valid.
func New(opts Options) (*Agent, error) {
	if err := opts.Config.Validate(); err != nil {
		return nil, err
	}
	if opts.SetHostname == nil {
		opts.SetHostname = func(name string) error { return unix.Sethostname([]byte(name)) }
	}
	e := &env{
		opts: opts, log: opts.Log, conf: opts.Config, procs: newProcs(),
		sys: sysctls{opts.Sysctl, opts.Log},
	}
	parts, err := newParts(e)
	if err != nil {
		return nil, err
	}
	e.parts = parts
	a := &Agent{env: e, ended: make(chan Action, 1), captures: make(chan struct{}, maxCaptures)}
	e.end = a.stop
	return a, nil
}

// Run is the agent's life. It returns when ctx ends or the host asks for the
// card's end, after everything it started has ended and DHCP leases are
// released.
func (a *Agent) Run(ctx context.Context) (Action, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Stopped, fmt.Errorf("netlink: %w", err)
	}
	defer nl.Close()
	server, err := newServer(a)
	if err != nil {
		return Stopped, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.nl, a.run = nl, ctx
	a.sys.early(memory().total)
	partOf[*linksPart](a.env).begin(ctx, server)
	if a.opts.Service {
		if err := server.listenAdmin(ctx, adminSocket); err != nil {
			a.log.Sayf("%v; programs of this card cannot ask the agent", err)
		}
	}
	if a.opts.Linked != nil {
		a.opts.Linked()
	}
	a.spawn(func() { a.startParts(ctx) })

	action := Stopped
	select {
	case <-ctx.Done():
	case action = <-a.ended:
	}
	cancel()
	server.close()
	a.closeParts()
	a.wg.Wait()
	return action, nil
}

func (a *Agent) startParts(ctx context.Context) {
	for _, p := range a.parts {
		if p.start(ctx); ctx.Err() != nil {
			return
		}
	}
}

// closeParts waits for an Apply under way. One that comes later finds that the
// run has ended.
func (a *Agent) closeParts() {
	a.applying.Lock()
	defer a.applying.Unlock()
	for _, p := range slices.Backward(a.parts) {
		p.close()
	}
}

// stop asks for the end of the run.
func (a *Agent) stop(action Action) {
	select {
	case a.ended <- action:
	default: // it is ending already
	}
}

// partOf finds a part by its type.
func partOf[T part](e *env) T {
	for _, p := range e.parts {
		if p, ok := p.(T); ok {
			return p
		}
	}
	panic(fmt.Sprintf("newParts has no %T", *new(T)))
}
