package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/machine"
)

// OffloadOptions selects what to measure of endpoint mode.
type OffloadOptions struct {
	Options           // Only chooses from OffloadParts; Machine and Cards are not used
	Machines []string // kinds of the card, one after the other
	Full     bool     // 10,000 idle connections too
}

// OffloadParts names what OffloadOptions.Only can choose.
func OffloadParts() []string {
	return []string{string(plainWork), string(rulesWork), string(cryptWork), "idle"}
}

// offloadRun is a run with one kind of card.
type offloadRun struct {
	*run
	full bool
	kind machine.Kind
	card *testCard
	link *rig
	ways []*way

	worldEnd, cardEnd, hostEnd tunnelEnd
	file                       string // for sendfile
	closers                    []func() error
}

// RunOffload measures what the host spends when a card ends its connections,
// beside a card that only forwards and beside conventional network devices,
// in the calling process's network namespace, which has to be one made for
// it. What was measured before an error or an interrupt is in the report.
func RunOffload(ctx context.Context, o OffloadOptions) (Report, error) {
	r := &run{Options: o.Options, report: Report{
		Host: thisHost(o.Version), Time: time.Now().UTC(), Rounds: o.Rounds, Seconds: o.Length.Seconds(),
		Results: []Result{}, Skipped: []Skip{},
	}}
	if err := o.check(); err != nil {
		return r.report, err
	}
	remove, err := r.makeDir()
	if err != nil {
		return r.report, err
	}
	defer remove()
	if err := loopbackUp(); err != nil {
		return r.report, err
	}
	var failed []error
	for _, kind := range o.Machines {
		b := &offloadRun{run: r, full: o.Full}
		if err := b.measure(ctx, kind); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", kind, err))
		}
		if ctx.Err() != nil {
			return r.report, ctx.Err()
		}
	}
	r.judgeOffload()
	return r.report, errors.Join(failed...)
}

func (o OffloadOptions) check() error {
	for _, name := range o.Only {
		if !slices.Contains(OffloadParts(), name) {
			return fmt.Errorf("no measurement %q: want one of %s", name, strings.Join(OffloadParts(), ", "))
		}
	}
	if o.Rounds < 1 || o.Length < 500*time.Millisecond {
		return fmt.Errorf("%d rounds of %s: want at least 1 of 500ms", o.Rounds, o.Length)
	}
	if len(o.Machines) == 0 {
		return errors.New("no kind of card to measure with: want one of uml, tcg, kvm")
	}
	return nil
}

func (r *run) wants(part string) bool { return len(r.Only) == 0 || slices.Contains(r.Only, part) }

func (b *offloadRun) onClose(f func() error) { b.closers = append(b.closers, f) }

func (b *offloadRun) close() error {
	var errs []error
	for i := len(b.closers) - 1; i >= 0; i-- {
		errs = append(errs, b.closers[i]())
	}
	return errors.Join(errs...)
}

// measure starts everything, measures with one kind of card, and takes it down.
func (b *offloadRun) measure(ctx context.Context, kind string) (err error) {
	defer func() { err = errors.Join(err, b.close()) }()
	if b.worldEnd, b.cardEnd, b.hostEnd, err = tunnels(); err != nil {
		return err
	}
	if err := b.makeFile(); err != nil {
		return err
	}
	stage := b.Progress.Stage(fmt.Sprintf("a card of kind %s, its world, and what it is set beside", kind), 0)
	err = b.start(ctx, kind, stage.Note)
	if err != nil {
		stage.Fail(err)
		return err
	}
	stage.Done("")
	if len(b.works()) > 0 {
		if err := b.compareWays(ctx); err != nil {
			return err
		}
	}
	if b.wants("idle") {
		return b.measureIdleConnections(ctx)
	}
	return nil
}

// makeFile makes what sendfile sends: in the page cache, as a file that is
// served often is.
func (b *offloadRun) makeFile() error {
	b.file = filepath.Join(b.dir, "sendfile")
	if err := os.WriteFile(b.file, make([]byte, 64<<20), 0o600); err != nil {
		return fmt.Errorf("file to send: %w", err)
	}
	return nil
}

// start brings up the card and lists the ways.
func (b *offloadRun) start(ctx context.Context, kind string, note func(string)) error {
	note("the world")
	w, err := b.newWorld(b.worldEnd)
	if err != nil {
		return err
	}
	b.onClose(w.close)
	if kind == "auto" {
		if kind, err = b.chooseKind(ctx); err != nil {
			return err
		}
	}
	note("toe up")
	b.kind = machine.Kind(kind)
	if b.card, err = b.upOffload(ctx, b.kind, w); err != nil {
		return err
	}
	b.onClose(b.card.down)
	b.saw(b.card)
	if b.link, err = b.linkRig(ctx, b.card); b.link != nil {
		b.onClose(b.link.close)
	}
	if err != nil {
		return err
	}
	note("this program onto the card")
	s, err := b.equip(ctx, b.link)
	if err != nil {
		return err
	}
	if err := b.ownWays(s); err != nil {
		return err
	}
	if b.kind == machine.UML {
		b.umlWays(s)
		return nil
	}
	return b.tapWays(ctx, note)
}

// chooseKind is what auto means here.
func (b *offloadRun) chooseKind(ctx context.Context) (string, error) {
	c, _, err := b.up(ctx, cardName, "auto")
	if err != nil {
		return "", err
	}
	return c.status.Machine.Kind, c.down()
}

// equip prepares a card, and this host on the way to it.
func (b *offloadRun) equip(ctx context.Context, g *rig) (*side, error) {
	program, err := os.Open(self)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	if err := g.login.upload(ctx, program); err != nil {
		return nil, err
	}
	s, err := b.newSide(g.ns, b.hostEnd)
	if err != nil {
		return nil, err
	}
	b.onClose(s.close)
	return s, nil
}

// ownWays are those over the link.
func (b *offloadRun) ownWays(s *side) error {
	if err := b.link.login.onCard(context.Background(), "card-tunnel", b.cardEnd); err != nil {
		b.skip(string(b.kind)+"/"+string(cryptWork), err.Error())
	}
	card, err := b.cardCPU(b.card.status.Machine.PID)
	if err != nil {
		return err
	}
	movers := []spent{b.link.pump, process(b.card.status.Supervisor.PID)}
	if b.kind != machine.UML {
		qemu, err := emulation(b.card.status.Machine.PID)
		if err != nil {
			return err
		}
		movers = append(movers, qemu)
	}
	for _, mode := range []string{control.ModeEndpoint, control.ModeRouter} {
		b.ways = append(b.ways, &way{
			name: mode, rig: b.link, side: s, port: b.nextPort(), offload: true, mode: mode,
			device: b.card.status.Link.Interface, via: b.link.host,
			state:   state{Forward: []packets{{"pci0", tunnelDevice}, {"lan", "wan"}}},
			program: s.spent(), mover: total(movers...), card: card, wire: process(b.portPump("wan")),
		})
	}
	return nil
}

// umlWays are those over a conventional device: the card's port lan, whose
// other end is a TAP of this host behind the same pump.
func (b *offloadRun) umlWays(s *side) {
	endpoint := b.ways[0]
	pump := process(b.portPump("lan"))
	for _, w := range b.ways {
		w.mover = total(w.mover, pump)
	}
	for _, tso := range []bool{true, false} {
		w := *endpoint
		w.name, w.port, w.mode, w.offload = tapName1500(tso), b.nextPort(), control.ModeRouter, false
		w.device, w.via, w.hostTSO = hostTAP, mustAddr(conventionalTo), &tso
		w.state.TSO = map[string]bool{"lan": tso}
		b.ways = append(b.ways, &w)
	}
}

func tapName1500(tso bool) string {
	if tso {
		return "tap-1500-tso"
	}
	return "tap-1500-plain"
}

func (b *offloadRun) portPump(name string) int {
	for _, p := range b.card.status.Ports {
		if p.Name == name {
			return p.PumpPID
		}
	}
	return 0
}

// nextPort is the world's port for the next way.
func (b *offloadRun) nextPort() uint16 { return worldPort + uint16(len(b.ways)) }

// cardCPU is what the card's own CPU does.
func (b *offloadRun) cardCPU(pid int) (spent, error) {
	if b.kind == machine.UML {
		return func() (sum time.Duration, err error) {
			for _, p := range family(pid) { // a process of the card is one of the host
				if d, err := cpuTime(p); err == nil {
					sum += d
				}
			}
			return sum, nil
		}, nil
	}
	used, err := threads(pid)
	if err != nil {
		return nil, err
	}
	vcpu, err := vcpuOf(pid, used)
	if err != nil {
		return nil, err
	}
	return func() (time.Duration, error) { return threadSpent(pid, vcpu) }, nil
}
