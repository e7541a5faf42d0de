package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/hostnet"
	"github.com/toe-project/toe/link"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/fake"
)

// scene is everything around a supervisor, in memory. A fault set on a step
// makes that step fail; a hang makes it wait until the supervisor gives up.
type scene struct {
	machine fake.Machine
	agent   fakeAgent

	mu    sync.Mutex
	fault map[string]error
	hang  map[string]bool
	open  map[string]int    // attachments and keepers that are open, by name
	seen  []string          // steps in the order they were reached
	event func(text string) // of the keeper that was made last
	died  chan error        // says that the namespace's holder is dead
	ends  chan error        // says that the other end of a port is dead
	kept  map[string]Device // that keepers were made for, by name
}

func newScene() *scene {
	return &scene{fault: map[string]error{}, hang: map[string]bool{}, open: map[string]int{}, died: make(chan error, 1), ends: make(chan error, 1), kept: map[string]Device{}}
}

// step is where a test makes something go wrong.
func (w *scene) step(ctx context.Context, name string) error {
	w.mu.Lock()
	w.seen = append(w.seen, name)
	err, hang := w.fault[name], w.hang[name]
	w.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (w *scene) opened(name string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open[name] += n; w.open[name] == 0 {
		delete(w.open, name)
	}
}

func (w *scene) leaks() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.open
}

func (w *scene) attach(ctx context.Context, name, iface string) (*hostnet.Attachment, error) {
	if err := w.step(ctx, name); err != nil {
		return nil, err
	}
	w.opened(name, 1)
	return &hostnet.Attachment{
		Interface: iface, Seam: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return nil, errors.New("no such peer")
		},
		Ping: func(ctx context.Context, _ netip.Addr) error { return w.step(ctx, "ping") },
		Lock: func(ctx context.Context, on bool) error {
			return cmp.Or(w.step(ctx, fmt.Sprintf("lock %s %v", name, on)), ctx.Err())
		},
		Abort:   func(ctx context.Context) error { return w.step(ctx, "abort "+name) },
		Blocked: func(ctx context.Context) error { return w.step(ctx, "blocked") },
		Close:   func() error { w.opened(name, -1); return nil },
	}, nil
}

func (w *scene) Link(ctx context.Context, want hostnet.LinkOptions) (*hostnet.Attachment, error) {
	return w.attach(ctx, "link", cmp.Or(want.Interface, "toe7"))
}

func (w *scene) Exec(ctx context.Context, _ hostnet.LinkOptions) (*hostnet.Attachment, error) {
	a, err := w.attach(ctx, "exec", "toe0")
	if a != nil {
		f, oerr := os.Open("/proc/self/ns/net")
		if oerr != nil {
			return nil, oerr
		}
		done := a.Close
		a.Namespaces, a.Died = []*os.File{f}, w.died
		a.Close = func() error { return errors.Join(f.Close(), done()) }
	}
	return a, err
}

func (w *scene) Prefixes() []store.Used { return nil }

func (w *scene) CheckPort(spec.Port) error { return w.step(context.Background(), "check") }

func (w *scene) Port(ctx context.Context, p spec.Port, _ net.HardwareAddr, _ machine.Kind) (*hostnet.Attachment, error) {
	if p.Attach.Kind == spec.AttachUser {
		return nil, w.step(ctx, "port")
	}
	a, err := w.attach(ctx, "port", p.Attach.Name)
	if a != nil {
		a.Died = w.ends
	}
	return a, err
}

func (w *scene) DefaultRoute(ctx context.Context, _ string, _ store.LinkAddrs) (func() error, error) {
	if err := w.step(ctx, "route"); err != nil {
		return nil, err
	}
	w.opened("route", 1)
	return func() error { w.opened("route", -1); return nil }, nil
}

func (w *scene) ReturnRoute(string, store.LinkAddrs) (func() error, error) {
	if err := w.step(context.Background(), "return"); err != nil {
		return nil, err
	}
	w.opened("return", 1)
	return func() error { w.opened("return", -1); return nil }, nil
}

// fakeKeeper has counters that stand still.
type fakeKeeper struct {
	w    *scene
	name string
	quit chan struct{}
	once sync.Once
}

func (w *scene) keeper(d Device, event func(string)) (Keeper, error) {
	if err := w.step(context.Background(), "keeper"); err != nil {
		return nil, err
	}
	w.opened("keeper "+d.Name, 1)
	k := &fakeKeeper{w: w, name: d.Name, quit: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.event, w.kept[d.Name] = event, d
	return k, nil
}

func (k *fakeKeeper) Serve(context.Context) error { <-k.quit; return nil }
func (k *fakeKeeper) PumpPID() int                { return 4711 }
func (k *fakeKeeper) Stats() []link.QueueStats {
	return []link.QueueStats{{ToCard: link.Direction{Packets: 3, Bytes: 200}}}
}
func (k *fakeKeeper) Close() error {
	k.once.Do(func() { close(k.quit); k.w.opened("keeper "+k.name, -1) })
	return nil
}

// fakeAgent answers as a card's agent does.
type fakeAgent struct {
	w  *scene
	mu sync.Mutex
	// guarded by mu
	status  *cardpb.StatusResponse
	silent  bool
	configs [][]byte
	off     func() // what PowerOff does
	refuse  error  // what Apply answers without having done it
	lost    error  // what Apply answers although it has done it
	digest  string // of the configuration in force; empty: it does not tell
	apply   func() // what Apply does before it answers, whatever its context says
}

func healthyReply() *cardpb.StatusResponse {
	return &cardpb.StatusResponse{
		Health: cardpb.Health_HEALTH_HEALTHY, UptimeSeconds: 12, Kernel: "7.2.0-toe", AgentVersion: "v1",
		Components: []*cardpb.Reason{{Component: "port wan", State: cardpb.Health_HEALTH_HEALTHY, Detail: "10.0.2.15/24 by DHCP"}},
		Interfaces: []*cardpb.Interface{{Name: "wan", Mtu: 1500, Addresses: []string{"10.0.2.15/24"}, Gateways: []string{"10.0.2.2"}}},
	}
}

func (a *fakeAgent) set(st *cardpb.StatusResponse, silent bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status, a.silent = st, silent
}

func (a *fakeAgent) Status(ctx context.Context, _ *cardpb.StatusRequest) (*cardpb.StatusResponse, error) {
	if err := a.w.step(ctx, "agent"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.silent {
		return nil, errors.New("no answer")
	}
	st := proto.Clone(a.status).(*cardpb.StatusResponse)
	if a.digest != "" {
		st.Configuration = &cardpb.Configuration{Digest: a.digest}
	}
	return st, nil
}

func (a *fakeAgent) Apply(_ context.Context, r *cardpb.ApplyRequest) (*cardpb.ApplyResponse, error) {
	if _, err := control.ParseConfig(r.Config); err != nil {
		return nil, err
	}
	a.mu.Lock()
	before := a.apply
	a.mu.Unlock()
	if before != nil {
		before()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refuse != nil {
		return nil, a.refuse
	}
	a.configs = append(a.configs, r.Config)
	a.digest = control.Digest(r.Config)
	if a.lost != nil {
		return nil, a.lost
	}
	return &cardpb.ApplyResponse{}, nil
}

func (a *fakeAgent) Logs(context.Context, *cardpb.LogsRequest) (*connect.ServerStreamForClient[cardpb.LogLine], error) {
	return nil, errors.New("the fake has no log")
}

func (a *fakeAgent) Capture(
	context.Context, *cardpb.CaptureRequest,
) (*connect.ServerStreamForClient[cardpb.CaptureBatch], error) {
	return nil, errors.New("the fake has no packets")
}

func (a *fakeAgent) Install(
	context.Context, *cardpb.InstallRequest,
) (*connect.ServerStreamForClient[cardpb.InstallProgress], error) {
	return nil, errors.New("the fake has no RAUC")
}

func (a *fakeAgent) Upgrade(
	context.Context, *cardpb.UpgradeRequest,
) (*connect.ServerStreamForClient[cardpb.UpgradeProgress], error) {
	return nil, errors.New("the fake has no packages")
}

func (a *fakeAgent) Packages(context.Context, *cardpb.PackagesRequest) (*cardpb.PackagesResponse, error) {
	return nil, errors.New("the fake has no packages")
}

func (a *fakeAgent) Reboot(context.Context, *cardpb.RebootRequest) (*cardpb.RebootResponse, error) {
	return &cardpb.RebootResponse{}, nil
}

func (a *fakeAgent) PowerOff(context.Context, *cardpb.PowerOffRequest) (*cardpb.PowerOffResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.off != nil {
		a.off()
	}
	return &cardpb.PowerOffResponse{}, nil
}

// parts puts a supervisor together from the fakes.
func (w *scene) parts() Parts {
	w.agent.w = w
	if w.agent.status == nil {
		w.agent.status = healthyReply()
	}
	return Parts{
		Choose: func(ctx context.Context, _ string) (machine.Machine, string, error) {
			return machineWithFaults{w}, "the fake always works", w.step(ctx, "choose")
		},
		Image: func(ctx context.Context, edition string, _ machine.Kind) (Image, error) {
			return Image{Edition: edition, Version: "7.2-abc", KernelVersion: "7.2.0-toe"}, w.step(ctx, "image")
		},
		Network: w,
		Keeper:  w.keeper,
		Control: func(netip.AddrPort, control.Keys, control.DialFunc) (cardpb.CardClient, func(), error) {
			return &w.agent, func() {}, w.step(context.Background(), "control")
		},
		Initrd: func(*store.Card, Image, *control.Config) error { return w.step(context.Background(), "initrd") },
		Limits: Limits{
			Start:    map[machine.Kind]time.Duration{machine.Fake: 300 * time.Millisecond},
			Settle:   100 * time.Millisecond,
			Shutdown: 100 * time.Millisecond, Stop: time.Second,
			Poll: 20 * time.Millisecond, Suspect: 10 * time.Millisecond, Knock: time.Millisecond,
			Backoff: []time.Duration{0, 5 * time.Millisecond}, Stable: time.Minute,
		},
	}
}

// machineWithFaults lets a fault stop the machine's start.
type machineWithFaults struct{ w *scene }

func (m machineWithFaults) Kind() machine.Kind                        { return machine.Fake }
func (m machineWithFaults) Nets() []machine.NetKind                   { return m.w.machine.Nets() }
func (m machineWithFaults) Probe(ctx context.Context) (string, error) { return m.w.machine.Probe(ctx) }
func (m machineWithFaults) Start(ctx context.Context, s machine.Spec) (machine.Instance, error) {
	if err := m.w.step(ctx, "start"); err != nil {
		s.Console.Close()
		return nil, err
	}
	return m.w.machine.Start(ctx, s)
}

// Running is a supervisor under test.
type runningCard struct {
	t     *testing.T
	w     *scene
	c     *store.Card
	s     *Supervisor
	stop  context.CancelFunc
	ended chan error
}

func startCard(t *testing.T, w *scene, c *store.Card) *runningCard {
	return startParts(t, w, c, w.parts())
}

func startParts(t *testing.T, w *scene, c *store.Card, parts Parts) *runningCard {
	ctx, cancel := context.WithCancel(context.Background())
	r := &runningCard{t: t, w: w, c: c, stop: cancel, ended: make(chan error, 1)}
	r.s = New(c, parts, log.New(io.Discard, "", 0))
	go func() { r.ended <- r.s.Run(ctx, nil) }()
	t.Cleanup(func() { cancel(); r.wait() })
	return r
}

// wait returns how the supervisor ended.
func (r *runningCard) wait() error {
	select {
	case err := <-r.ended:
		r.ended <- err
		return err
	case <-time.After(10 * time.Second):
		r.t.Fatal("the supervisor did not end within 10 s")
		return nil
	}
}

// await waits for a status that fits.
func (r *runningCard) await(what string, fits func(status.Status) bool) status.Status {
	r.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		st, err := client.Status(context.Background(), r.c)
		if err == nil && fits(st) {
			return st
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("no status with %s within 10 s; the last is %+v, %v", what, st, err)
		}
		time.Sleep(time.Millisecond)
	}
}

func inState(want status.State) func(status.Status) bool {
	return func(st status.Status) bool { return st.State == want }
}

var errFault = fmt.Errorf("a fault of the test")

func discard() *log.Logger { return log.New(io.Discard, "", 0) }
