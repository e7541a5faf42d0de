package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/hostnet/firewall"
	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/fake"
)

// steps are the states of a start, each named after what is being done.
var steps = []struct{ step, stage string }{
	{"choose", "choosing a machine"},
	{"check", "checking where the ports lead"},
	{"image", "firmware, links and ports"},
	{"link", "firmware, links and ports"},
	{"exec", "firmware, links and ports"},
	{"port", "firmware, links and ports"},
	{"keeper", "firmware, links and ports"},
	{"control", "firmware, links and ports"},
	{"initrd", "starting the machine"},
	{"start", "starting the machine"},
	{"agent", "booting"},
	{"ping", "waiting for the link to pass a packet of 65535 bytes"},
}

// needRoot: without root a card has no link, only exec's.
func applies(step string) bool { return store.Privileged() || step != "link" }

// The error row of every state: the start fails, says where and why, takes
// down what it had made, and leaves the reason for status.
func TestErrorInEveryState(t *testing.T) {
	for _, c := range steps {
		if !applies(c.step) {
			continue
		}
		t.Run(c.step, func(t *testing.T) {
			w := newScene()
			w.fault[c.step] = errFault
			w.machine.Steps = []fake.Step{{Console: "the last words\r\n"}}
			r := startCard(t, w, storetest.Card(t, ""))
			err := r.wait()
			var se *StartError
			if !errors.As(err, &se) || se.Stage != c.stage || !errors.Is(err, errFault) && !strings.Contains(err.Error(), errFault.Error()) {
				t.Errorf("ended with %v, want a StartError of stage %q with the fault", err, c.stage)
			}
			r.checkGone(t, status.Failed, errFault.Error())
			if c.step == "agent" && !strings.Contains(se.Console, "the last words") {
				t.Errorf("the console's end is missing: %q", se.Console)
			}
		})
	}
}

// Ctrl-C in every state: everything is taken down, and nothing has failed.
func TestInterruptInEveryState(t *testing.T) {
	for _, c := range append(steps[:len(steps):len(steps)], struct{ step, stage string }{"", ""}) {
		if !applies(c.step) || c.step == "check" || c.step == "keeper" || c.step == "initrd" || c.step == "control" {
			continue // these do not wait for anything
		}
		t.Run("at "+c.step, func(t *testing.T) {
			w := newScene()
			w.hang[c.step] = true
			r := startCard(t, w, storetest.Card(t, ""))
			r.await("stage "+c.stage, func(st status.Status) bool {
				return st.Stage == c.stage && (c.step != "" || st.State == status.Healthy)
			})
			r.stop()
			if err := r.wait(); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
			r.checkGone(t, status.Stopped, "")
		})
	}
}

// A firewall of the host that drops the link's packets ends the wait for the
// agent: the machine's own limit is a minute here.
func TestFirewallEndsTheWait(t *testing.T) {
	if !store.Privileged() {
		t.Skip("without root the link is in a namespace, which has no firewall")
	}
	w := newScene()
	w.hang["agent"] = true
	w.fault["blocked"] = &firewall.Dropped{Chains: []firewall.Chain{{Family: "inet", Table: "t", Name: "in"}}}
	parts := w.parts()
	parts.Limits.Start[machine.Fake] = time.Minute
	err := New(storetest.Card(t, ""), parts, discard()).Run(t.Context(), nil)
	var dropped *firewall.Dropped
	if !errors.As(err, &dropped) || !strings.Contains(err.Error(), "; fix: sudo nft insert rule inet t in ") {
		t.Errorf("ended with %v", err)
	}
}

// A probe that is late once, on a busy host, ends no start.
func TestFirewallIsAskedTwice(t *testing.T) {
	w := newScene()
	l := &life{limits: &Limits{Suspect: time.Millisecond}}
	ctx, cancel := context.WithCancelCause(t.Context())
	tries := 0
	l.suspectFirewall(ctx, func(context.Context) error {
		if tries++; tries == 1 {
			return &firewall.Dropped{}
		}
		return w.step(ctx, "blocked")
	}, cancel)
	if tries != 2 || ctx.Err() != nil {
		t.Errorf("after %d tries: %v", tries, context.Cause(ctx))
	}
}

// A supervisor that cannot make its sockets says that it failed, not that it was killed.
func TestNoSockets(t *testing.T) {
	c := storetest.Card(t, "")
	// A rename to a directory that is not empty fails.
	if err := os.MkdirAll(filepath.Join(c.Paths.ConsoleLog()+".1", "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.Paths.ConsoleLog(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := New(c, newScene().parts(), discard()).Run(t.Context(), nil)
	st, serr := client.Status(t.Context(), c)
	if err == nil || serr != nil || st.State != status.Failed || st.Killed || !strings.Contains(strings.Join(st.Reasons, " "), "console.log") {
		t.Errorf("%v; status is %s %q, killed: %v, %v", err, st.State, st.Reasons, st.Killed, serr)
	}
}

// checkGone looks for anything that is left of a card.
func (r *runningCard) checkGone(t *testing.T, want status.State, reason string) {
	t.Helper()
	if leaks := r.w.leaks(); len(leaks) > 0 {
		t.Errorf("still open: %v", leaks)
	}
	for _, i := range r.w.machine.Instances() {
		if !ended(i) {
			t.Error("the machine still runs")
		}
	}
	st, err := client.Status(context.Background(), r.c)
	if err != nil || st.State != want || reason != "" && !strings.Contains(strings.Join(st.Reasons, " "), reason) {
		t.Errorf("afterwards status is %s %q (%v), want %s with %q", st.State, st.Reasons, err, want, reason)
	}
	left, _ := os.ReadDir(r.c.Paths.Runtime)
	for _, e := range left {
		if !slices.Contains([]string{"console.log", "console.log.1", "supervisor.pid"}, e.Name()) {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

// The killed row of every state: this test binary runs a supervisor with
// the fakes, waits in that state, and is killed. Status must tell, and the
// next start must work.
func TestKilledInEveryState(t *testing.T) {
	if os.Getenv("TOE_TEST_KILLED") != "" {
		killedChild(t)
		return
	}
	for _, c := range append(steps[:len(steps):len(steps)], struct{ step, stage string }{"", ""}) {
		if !applies(c.step) || c.step == "check" || c.step == "keeper" || c.step == "initrd" || c.step == "control" {
			continue
		}
		t.Run("at "+c.step, func(t *testing.T) {
			card := storetest.Card(t, "")
			pid := runAndKill(t, card, c.step, c.stage)
			st, err := client.Status(context.Background(), card)
			if err != nil || st.State != status.Failed || !st.Killed || !strings.Contains(strings.Join(st.Reasons, ""), "was killed") {
				t.Fatalf("status after SIGKILL: %s %q, %v", st.State, st.Reasons, err)
			}
			r := startCard(t, newScene(), card)
			st = r.await("health", inState(status.Healthy))
			if len(st.History) == 0 || !strings.Contains(told(st), "was killed; cleaned up after it") {
				t.Errorf("history does not tell of supervisor %d: %s", pid, told(st))
			}
			r.stop()
			_ = r.wait()
			r.checkGone(t, status.Stopped, "")
		})
	}
}

func told(st status.Status) string {
	var all []string
	for _, e := range st.History {
		all = append(all, e.Text)
	}
	return strings.Join(all, "\n")
}

func runAndKill(t *testing.T, c *store.Card, step, stage string) int {
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestKilledInEveryState$")
	cmd.Env = append(os.Environ(), "TOE_TEST_KILLED="+step+",", "TOE_TEST_STATE="+filepath.Dir(c.Paths.State), "TOE_TEST_RUNTIME="+filepath.Dir(c.Paths.Runtime))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &runningCard{t: t, c: c}
	r.await("stage "+stage, func(st status.Status) bool {
		return st.Supervisor.PID == cmd.Process.Pid && st.Stage == stage && (step != "" || st.State == status.Healthy)
	})
	_ = cmd.Process.Signal(syscall.SIGKILL)
	_ = cmd.Wait()
	return cmd.Process.Pid
}

func killedChild(t *testing.T) {
	step, _, _ := strings.Cut(os.Getenv("TOE_TEST_KILLED"), ",")
	dirs := store.Dirs{State: os.Getenv("TOE_TEST_STATE"), Runtime: os.Getenv("TOE_TEST_RUNTIME"), Cache: t.TempDir()}
	c, err := dirs.Open("card0")
	if err != nil {
		t.Fatal(err)
	}
	w := newScene()
	w.hang[step] = true
	parts := w.parts()
	parts.Limits.Start[machine.Fake] = time.Minute
	_ = New(c, parts, discard()).Run(context.Background(), nil)
}

func TestStatusHasEveryField(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, "name: edge\nports: [{name: wan, attach: 'tap:t0'}]\n"))
	r.await("health", inState(status.Healthy))
	data, err := json.Marshal(r.s.Status())
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		want any
	}{
		{"name", "edge"},
		{"state", "healthy"},
		{"reasons", []any{}},
		{"machine.kind", "fake"},
		{"machine.pid", float64(os.Getpid())},
		{"pump.pid", float64(4711)},
		{"link.interface", map[bool]string{true: "toe7", false: "toe0"}[store.Privileged()]},
		{"link.mtu", float64(65535)},
		{"link.host", nil}, {"link.card", nil}, {"link.queues", nil},
		{"exec.namespace", true},
		{"ports", nil},
		{"firmware.edition", "micro"},
		{"firmware.version", "7.2-abc"},
		{"firmware.kernel", "7.2.0-toe"},
		{"uptime_seconds", nil},
		{"supervisor.pid", float64(os.Getpid())},
	} {
		v, ok := dig(got, strings.Split(c.path, ".")...)
		if !ok {
			t.Errorf("%s is missing", c.path)
		} else if a, b := jsonOf(v), jsonOf(c.want); c.want != nil && a != b {
			t.Errorf("%s is %s, want %s", c.path, a, b)
		}
	}
	port := got["ports"].([]any)[0].(map[string]any)
	if port["name"] != "wan" || port["attach"] != "tap:t0" || jsonOf(port["addresses"]) != `["10.0.2.15/24"]` || port["state"] != "healthy" {
		t.Errorf("port: %s", jsonOf(port))
	}
	hosts, _ := dig(got, "link", "host")
	if list, ok := hosts.([]any); !ok || len(list) != 2 {
		t.Errorf("link.host: %v", hosts)
	}
	queue := got["link"].(map[string]any)["queues"].([]any)[0].(map[string]any)["to_card"].(map[string]any)
	if queue["packets"] != float64(3) {
		t.Errorf("counters: %v", queue)
	}
}

// TestIgnoredKeys: what an older agent does not know is in the status, and the
// card is healthy.
func TestIgnoredKeys(t *testing.T) {
	w := newScene()
	reply := healthyReply()
	reply.Configuration = &cardpb.Configuration{Ignored: []string{"offload.turbo"}}
	w.agent.set(reply, false)
	r := startCard(t, w, storetest.Card(t, "name: edge\n"))
	r.await("health", inState(status.Healthy))
	if got := r.s.Status().Firmware.Ignored; !slices.Equal(got, []string{"offload.turbo"}) {
		t.Errorf("ignored keys %q", got)
	}
}

func dig(v any, keys ...string) (any, bool) {
	for _, k := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[k]; !ok {
			return nil, false
		}
	}
	return v, true
}

func jsonOf(v any) string {
	data, _ := json.Marshal(v)
	return string(data)
}

// A machine that ends is started again, and the history says why.
func TestMachineEnds(t *testing.T) {
	for _, c := range []struct {
		exit machine.Exit
		want string
	}{
		{machine.Exit{Cause: machine.Killed, Detail: "signal 9"}, "machine: killed (signal 9); starting it again"},
		{machine.Exit{Cause: machine.Crashed, Detail: "exit status 3"}, "machine: crashed (exit status 3); starting it again"},
		{machine.Exit{Cause: machine.Panicked}, "machine: panicked; starting it again"},
		{machine.Exit{Cause: machine.Rebooted}, "the card rebooted"},
	} {
		t.Run(string(c.exit.Cause), func(t *testing.T) {
			w := newScene()
			r := startCard(t, w, storetest.Card(t, ""))
			r.await("health", inState(status.Healthy))
			w.machine.Instances()[0].End(c.exit)
			st := r.await("a restart", func(st status.Status) bool { return st.Restarts == 1 && st.State == status.Healthy })
			if !strings.Contains(told(st), c.want) {
				t.Errorf("history %q, want %q", told(st), c.want)
			}
			if len(st.Reasons) > 0 {
				t.Errorf("healthy again, because %q", st.Reasons)
			}
		})
	}
}

func TestPowerOffFromInsideEndsTheSupervisor(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	w.machine.Instances()[0].End(machine.Exit{Cause: machine.PoweredOff})
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	r.checkGone(t, status.Stopped, "powered itself off")
}

// A card that becomes ready and ends at once, again and again, must not keep
// the host busy; one that has run for a while is started again at once.
func TestRestartsInARowAreHeldBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		stable time.Duration
		want   int
	}{{"short lives", time.Hour, 1}, {"long lives", 0, 3}} {
		t.Run(c.name, func(t *testing.T) {
			w := newScene()
			parts := w.parts()
			parts.Limits.Backoff, parts.Limits.Stable = []time.Duration{0, time.Hour}, c.stable
			r := startParts(t, w, storetest.Card(t, ""), parts)
			for n := range c.want {
				r.await("health", func(st status.Status) bool { return st.State == status.Healthy && st.Restarts == n })
				w.machine.Instances()[n].End(machine.Exit{Cause: machine.Crashed})
			}
			r.await("another restart", func(st status.Status) bool { return st.State == status.Healthy && st.Restarts == c.want })
			w.machine.Instances()[c.want].End(machine.Exit{Cause: machine.Crashed})
			r.await("word of that", func(st status.Status) bool { return strings.Count(told(st), "starting it again") == c.want+1 })
			time.Sleep(50 * time.Millisecond)
			if got := len(w.machine.Instances()); (got == c.want+1) != (c.stable > 0) {
				t.Errorf("%d machines were started after %d ends", got, c.want+1)
			}
		})
	}
}

// A restart that fails is tried again, for as long as it takes.
func TestRestartThatFailsIsTriedAgain(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	w.mu.Lock()
	w.fault["start"] = errFault
	w.mu.Unlock()
	w.machine.Instances()[0].End(machine.Exit{Cause: machine.Crashed})
	st := r.await("the fault", func(st status.Status) bool { return st.Restarts >= 2 && st.State == status.Starting })
	if !strings.Contains(strings.Join(st.Reasons, " "), errFault.Error()) {
		t.Errorf("reasons %q do not have the fault", st.Reasons)
	}
	w.mu.Lock()
	delete(w.fault, "start")
	w.mu.Unlock()
	r.await("health", func(st status.Status) bool { return st.State == status.Healthy && len(st.Reasons) == 0 })
}

func TestDegradedHasReasons(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	sick := healthyReply()
	sick.Health = cardpb.Health_HEALTH_DEGRADED
	sick.Reasons = []*cardpb.Reason{{Component: "port wan", State: sick.Health, Detail: "no carrier"}}
	w.agent.set(sick, false)
	st := r.await("degraded", inState(status.Degraded))
	if !slices.Equal(st.Reasons, []string{"port wan: no carrier"}) {
		t.Errorf("reasons %q", st.Reasons)
	}
	w.agent.set(healthyReply(), false)
	r.await("health", inState(status.Healthy))
	w.agent.set(healthyReply(), true)
	st = r.await("silence", inState(status.Degraded))
	if !strings.Contains(strings.Join(st.Reasons, ""), "agent: has not answered for") {
		t.Errorf("reasons %q", st.Reasons)
	}
}

func TestPumpEventsStandInTheHistory(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	w.mu.Lock()
	tell := w.event
	w.mu.Unlock()
	tell("pump 12 ended (signal: killed), replaced by 13 in 40ms")
	r.await("the event", func(st status.Status) bool { return strings.Contains(told(st), "replaced by 13 in 40ms") })
}

// The links' pumps are told how long to look for packets before they sleep; the
// ports' are not.
func TestSpinIsTheLinks(t *testing.T) {
	w := newScene()
	startCard(t, w, storetest.Card(t, "link: {spin: 50}\nports: [{name: wan, attach: 'tap:t0'}]\n")).await("health", inState(status.Healthy))
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, want := range map[string]time.Duration{store.LinkDevice: 50 * time.Microsecond, store.ExecDevice: 50 * time.Microsecond, store.PortDevice("wan"): 0} {
		if d, ok := w.kept[name]; !ok || d.Spin != want {
			t.Errorf("%s: there %v, spin %s, want %s", name, ok, d.Spin, want)
		}
	}
}

// A namespace is given out as a descriptor, and not at all once its holder is
// dead: nothing in it reaches the card then.
func TestDeadNamespaceIsNotEntered(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	info, namespaces, err := client.New(r.c).Exec(t.Context())
	if err != nil || len(namespaces) != 1 {
		t.Fatalf("%+v, %d namespaces, %v", info, len(namespaces), err)
	}
	var there, here unix.Stat_t
	err = errors.Join(unix.Fstat(int(namespaces[0].Fd()), &there), unix.Stat("/proc/self/ns/net", &here))
	if fds.CloseAll(namespaces); err != nil || there.Ino != here.Ino {
		t.Errorf("namespace %d, want %d: %v", there.Ino, here.Ino, err)
	}
	if data, err := os.ReadFile(info.ResolvConf); err != nil || !strings.Contains(string(data), "nameserver") {
		t.Errorf("%s: %q, %v", info.ResolvConf, data, err)
	}
	w.died <- errors.New("the holder was killed")
	st := r.await("word of it", inState(status.Degraded))
	if text := strings.Join(st.Reasons, " "); !strings.Contains(text, "the holder was killed") {
		t.Errorf("reasons %q", text)
	}
	r.await("a refusal", func(status.Status) bool { _, _, err = client.New(r.c).Exec(t.Context()); return err != nil })
	if !strings.Contains(err.Error(), "toe up") {
		t.Errorf("refused with %v", err)
	}
}

// Resets that were asked for while the machine is off are one start, not another after it.
func TestResetWhileTheMachineIsOff(t *testing.T) {
	w := newScene()
	parts := w.parts()
	parts.Limits.Backoff = []time.Duration{0, 100 * time.Millisecond}
	r := startParts(t, w, storetest.Card(t, ""), parts)
	r.await("health", inState(status.Healthy))
	w.machine.Instances()[0].End(machine.Exit{Cause: machine.Crashed})
	r.await("a restart", func(st status.Status) bool { return st.State == status.Healthy && st.Restarts == 1 })
	w.machine.Instances()[1].End(machine.Exit{Cause: machine.Crashed}) // held back for 100 ms
	r.await("the pause", func(st status.Status) bool {
		return st.State == status.Healthy && len(st.Reasons) > 0 || st.State != status.Healthy
	})
	if err := client.New(r.c).Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.await("a restart", func(st status.Status) bool {
		return st.State == status.Healthy && st.Restarts == 2 && len(st.Reasons) == 0
	})
	time.Sleep(50 * time.Millisecond)
	if got := len(w.machine.Instances()); got != 3 {
		t.Errorf("%d machines were started, want 3", got)
	}
}

func TestLateEventDoesNotReviveASupervisor(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	r.stop()
	_ = r.wait()
	r.s.board.event("pump ended")
	if st, err := client.Status(t.Context(), r.c); err != nil || st.State != status.Stopped || st.Killed {
		t.Errorf("%s, killed %t, %v", st.State, st.Killed, err)
	}
}

func TestDownThenNothingIsLeft(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	w.agent.mu.Lock()
	w.agent.off = func() { go w.machine.Instances()[0].End(machine.Exit{Cause: machine.PoweredOff}) }
	w.agent.mu.Unlock()
	if err := client.New(r.c).Down(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := r.wait(); err != nil {
		t.Error(err)
	}
	r.checkGone(t, status.Stopped, "")
}

func TestSecondSupervisorIsRefused(t *testing.T) {
	r := startCard(t, newScene(), storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	err := New(r.c, newScene().parts(), discard()).Run(context.Background(), nil)
	if !errors.Is(err, store.ErrRunning) {
		t.Errorf("a second supervisor ended with %v", err)
	}
	if err := client.Remove(r.c); !errors.Is(err, store.ErrRunning) {
		t.Errorf("rm of a running card: %v", err)
	}
	if st, _ := client.Status(context.Background(), r.c); st.State != status.Healthy {
		t.Errorf("the first one suffered: %s", st.State)
	}
}

func TestDefaultRouteIsPutBack(t *testing.T) {
	if !store.Privileged() {
		t.Skip("a card without root has no link in the host's namespace")
	}
	w := newScene()
	r := startCard(t, w, storetest.Card(t, "link: {default_route: true}\n"))
	r.await("health", inState(status.Healthy))
	if w.isOpen("route") != 1 {
		t.Fatal("the route was not set")
	}
	if at := slices.Index(w.steps(), "route"); at < 0 || !slices.Contains(w.steps()[at:], "lock link true") {
		t.Errorf("the path MTU of the new routes is not locked: %v", w.steps())
	}
	r.stop()
	_ = r.wait()
	if w.isOpen("route") != 0 {
		t.Error("the route is still there")
	}
}

func TestApplyChangesTheCardAndItsFile(t *testing.T) {
	w := newScene()
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	spec, _ := spec.Parse("f", []byte("dns: {servers: [192.0.2.53]}\n"))
	// The agent has just reported something.
	if _, err := client.New(r.c).Status(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	after := healthyReply()
	after.Interfaces[0].Addresses = []string{"10.0.2.99/24"}
	w.agent.set(after, false)
	changes, err := client.New(r.c).Apply(context.Background(), spec)
	if err != nil || len(changes) != 1 || !strings.HasPrefix(changes[0], "dns:") {
		t.Fatalf("%q, %v", changes, err)
	}
	if n, in := w.agent.applied(), w.agent.inForce(); n != 1 || !strings.Contains(in, "192.0.2.53") {
		t.Errorf("the card was told %d configurations, the last %q", n, in)
	}
	if st, err := client.New(r.c).Status(context.Background(), 0); err != nil || len(st.Ports) != 1 || !slices.Equal(st.Ports[0].Addresses, after.Interfaces[0].Addresses) {
		t.Errorf("the status at once after it is that of before: %+v, %v", st.Ports, err)
	}
	again, err := r.c.Dirs.Open("card0")
	if err != nil || len(again.Spec.DNS.Servers) != 1 {
		t.Errorf("card.yaml was not changed: %v", err)
	}
	spec.Machine.CPUs = 2
	if _, err := client.New(r.c).Apply(context.Background(), spec); err == nil || !strings.Contains(err.Error(), "started again") {
		t.Errorf("a change that needs a restart: %v", err)
	}
}

func TestConsoleServesSeveral(t *testing.T) {
	w := newScene()
	w.machine.Steps = []fake.Step{{Console: "hello\r\n", Run: func(_ machine.Spec, rw io.ReadWriter) { _, _ = io.Copy(rw, rw) }}}
	r := startCard(t, w, storetest.Card(t, ""))
	r.await("health", inState(status.Healthy))
	var conns []net.Conn
	for range 3 {
		c, err := net.Dial("unix", r.c.Paths.ConsoleSock())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		expect(t, c, "hello\r\n")
		conns = append(conns, c)
	}
	if _, err := conns[1].Write([]byte("echo")); err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		expect(t, c, "echo")
	}
	if got := r.c.Paths.ConsoleTail(); !strings.Contains(got, "hello") {
		t.Errorf("the log has %q", got)
	}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, len(want))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != want {
		t.Fatalf("console said %q, %v; want %q", buf, err, want)
	}
}

func TestWatchdogNamesTheStage(t *testing.T) {
	w := newScene()
	w.agent.silent = true
	r := startCard(t, w, storetest.Card(t, ""))
	err := r.wait()
	if err == nil || !strings.Contains(err.Error(), "booting: not done after") || !strings.Contains(err.Error(), "no answer") {
		t.Errorf("the watchdog said %v", err)
	}
	r.checkGone(t, status.Failed, "booting")
}

func TestRunLeaksNothing(t *testing.T) {
	run := func() {
		w := newScene()
		r := startCard(t, w, storetest.Card(t, ""))
		r.await("health", inState(status.Healthy))
		r.stop()
		_ = r.wait()
	}
	run()
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 5 {
		run()
	}
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > goroutines || openFiles(t) > files {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines and %d descriptors more than before", runtime.NumGoroutine()-goroutines, openFiles(t)-files)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func openFiles(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
