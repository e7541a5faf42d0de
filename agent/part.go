package agent

import (
	"context"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// part is one thing that a card does. A part embeds idle and has a method of
// its own for each of these that it needs. newParts is the list of them.
type part interface {
	// plan returns the steps from one configuration to another. It changes
	// nothing. An error refuses the change as a whole.
	plan(now, next *control.Config) ([]step, error)
	// rules adds what the part needs of the firewall under a configuration.
	rules(c *control.Config, r *rules)
	// listeners are the part's services for the host, on each link's addresses.
	listeners() []listener
	// start begins the part's work with the configuration in force. Parts start
	// one after the other, in the order of the list. Work that takes longer than
	// the next part can wait goes to env.spawn, and ends with ctx.
	start(ctx context.Context)
	// health is the state of the part's components, the healthy ones too.
	health() []reason
	// status adds what the part alone knows to the card's status.
	status(out *cardpb.StatusResponse)
	// close undoes what the part did outside the agent. Parts close in the
	// reverse order, after ctx has ended.
	close()
}

// newParts makes the parts of a card, in the order of their starts and of the
// steps of a change. The firewall comes before the ports: a port that it does
// not know is closed, not open. To add a service, write a file with its part
// and put it on this list.
func newParts(e *env) ([]part, error) {
	ssh, err := newLogin(e)
	if err != nil {
		return nil, err
	}
	fire := &firewallPart{env: e, kernel: nftFirewall{}}
	ports := &portsPart{env: e, learned: func() {}}
	names := newNamesPart(e, ports, fire)
	ports.learned = names.update
	parts := []part{
		&linksPart{env: e}, &systemPart{env: e}, ssh, newTimePart(e),
		fire, ports, newOffloadPart(e), names, newInstallPart(e), newServicesPart(e),
		newUpgradePart(e), newUpdatesPart(e), newUnitsPart(e),
	}
	parts = append(parts, newSlotPart(e, e.opts.Cmdline))
	if e.opts.NoRoot != nil {
		parts = append(parts, &rootPart{err: e.opts.NoRoot})
	}
	return parts, nil
}

// newLogin makes the part that lets people log in: the agent's own ssh, or the root's OpenSSH.
func newLogin(e *env) (part, error) {
	if e.opts.Service {
		return newSSHDPart(e, sshdDir)
	}
	return newSSHPart(e)
}

// env is what the parts of one agent share.
type env struct {
	opts  Options
	log   *Log
	sys   sysctls
	procs *procs
	parts []part
	nl    *netlink.Handle // from Run on
	run   context.Context // of the whole run, from Run on
	end   func(Action)    // asks for the end of the run
	wg    sync.WaitGroup

	// applying is held while a part changes the card: by one change of the
	// configuration at a time, and by what a part does on its own account.
	applying sync.Mutex

	mu   sync.Mutex // guards what follows
	conf *control.Config
	torn error // why the last change could not be taken back
}

// config is the configuration in force. It does not change; Apply replaces it.
func (e *env) config() *control.Config {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.conf
}

// spawn runs f until the agent's end, which waits for it.
func (e *env) spawn(f func()) { e.wg.Go(f) }

// listener is a service for the host.
type listener struct {
	name string
	port uint16
	// listen serves one address until ctx ends or the part is closed.
	listen func(ctx context.Context, at netip.AddrPort) error
}

// idle is a part that does nothing.
type idle struct{}

func (idle) plan(_, _ *control.Config) ([]step, error) { return nil, nil }
func (idle) rules(*control.Config, *rules)             {}
func (idle) listeners() []listener                     { return nil }
func (idle) start(context.Context)                     {}
func (idle) health() []reason                          { return nil }
func (idle) status(*cardpb.StatusResponse)             {}
func (idle) close()                                    {}
