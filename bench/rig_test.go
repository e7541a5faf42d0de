package bench

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/agent"
)

// loopRig is a rig whose card is this process, at an unused loopback address.
func loopRig(t *testing.T) *rig {
	t.Helper()
	g := &rig{name: "loop", host: netip.AddrFrom4([4]byte{127, 77, 0, 1}), others: total(), pump: total()}
	in, hangUp := io.Pipe()
	said, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := agent.BenchServe(netip.AddrPortFrom(g.host, servePort).String(), in, out)
		out.CloseWithError(err)
		ended <- err
	}()
	t.Cleanup(func() { hangUp.Close(); <-ended })
	if _, err := bufio.NewReader(said).ReadString('\n'); err != nil {
		t.Skip("no port on the loopback to serve at:", err)
	}
	return g
}

func TestTraffic(t *testing.T) {
	g := loopRig(t)
	for _, way := range ways {
		f, err := g.traffic(t.Context(), way.mode, 2, 1100*time.Millisecond)
		if err != nil {
			t.Fatal(way.name, err)
		}
		if f.gbit() < 0.01 || f.firstSecond() < 0.01 || f.seconds < 1 || f.host <= 0 || f.hostPerGiB() < f.pumpPerGiB() {
			t.Errorf("%s: %+v", way.name, f)
		}
	}
}

func TestTrafficEndsWithItsContext(t *testing.T) {
	g := loopRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := g.traffic(ctx, 'i', 1, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestRoundTripAndDatagrams(t *testing.T) {
	g := loopRig(t)
	if v, err := g.roundTrip(t.Context(), 50); err != nil || v <= 0 {
		t.Errorf("round trip %v, %v", v, err)
	}
	for name, f := range map[string]func(context.Context, time.Duration) (float64, error){"to card": g.smallToCard, "to host": g.smallToHost} {
		if v, err := f(t.Context(), 200*time.Millisecond); err != nil || v < 100 {
			t.Errorf("datagrams %s: %v a second, %v", name, v, err)
		}
	}
}

func TestOrderThatCannotBeDone(t *testing.T) {
	if _, err := loopRig(t).ask(t.Context(), 1, 'x'); err == nil {
		t.Error("the answer to an order that there is not")
	}
}

func namespace(t *testing.T) *nsThread {
	t.Helper()
	ns, err := newNSThread()
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs root, to make a network namespace")
	}
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func TestNamespaceOfItsOwn(t *testing.T) {
	ns := namespace(t)
	var names []string
	err := ns.do(func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			if i.Flags&net.FlagUp != 0 {
				names = append(names, i.Name)
			}
		}
		return err
	})
	if err != nil || len(names) != 1 || names[0] != "lo" {
		t.Errorf("interfaces that are up: %q, %v, want lo alone", names, err)
	}
	ns.close()
	if err := (&nsThread{work: make(chan func()), done: ns.done}).do(func() error { return nil }); err == nil {
		t.Error("a thread that has ended did something")
	}
}

// Processes of a rig end with it, and also with its thread.
func TestRigEndsWhatItStarted(t *testing.T) {
	g := &rig{name: "trial", ns: namespace(t)}
	g.onClose(func() error { g.ns.close(); return nil })
	pid, err := g.start(exec.Command("sleep", "60"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.start(exec.Command("sh", "-c", "echo some words; exit 3")); err == nil || !strings.Contains(err.Error(), "some words") {
		t.Errorf("a program that ends at once: %v", err)
	}
	if err := g.close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is there after the rig's end: %v", pid, err)
	}
}

func TestWhichPasstWillDo(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		ok     bool
	}{
		"new":         {"echo '  --vhost-user   Enable vhost-user mode'", true},
		"and says it": {"echo '  --vhost-user' >&2; exit 1", true},
		"old":         {"echo '  --socket PATH'", false},
		"broken":      {"exit 127", false},
	} {
		path := filepath.Join(t.TempDir(), "passt")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+c.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := hasVhostUser(t.Context(), path); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHowManyCards(t *testing.T) {
	for _, c := range []struct {
		o    Options
		kind string
		want int
	}{
		{Options{}, "uml", 20}, {Options{}, "tcg", 4}, {Options{Machine: "tcg"}, "", 4}, {Options{Machine: "auto"}, "", 20},
		{Options{Quick: true}, "uml", 4}, {Options{Cards: 7, Quick: true}, "tcg", 7},
	} {
		r := &run{Options: c.o}
		r.report.Host.Machine = c.kind
		if got := r.howMany(); got != c.want {
			t.Errorf("%+v on %q: %d, want %d", c.o, c.kind, got, c.want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Rounds: 1, Length: time.Second}
	if err := (&run{Options: good}).check(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Options){
		"no rounds":   func(o *Options) { o.Rounds = 0 },
		"too short":   func(o *Options) { o.Length = time.Millisecond },
		"no part":     func(o *Options) { o.Only = []string{"copy", "nothing"} },
		"minus cards": func(o *Options) { o.Cards = -1 },
	} {
		o := good
		spoil(&o)
		if err := (&run{Options: o}).check(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// Rounds that fail are named. Without a round of the link there is nothing to compare.
func TestCompareWithoutALink(t *testing.T) {
	tries := map[string]int{}
	bad := func(name string) *rig {
		return &rig{name: name, prepare: func(context.Context) error {
			tries[name]++
			return errors.New("a reason")
		}}
	}
	r := &run{Options: Options{Rounds: 5, Length: time.Second}}
	if err := r.compare(t.Context(), "tcg", []*rig{bad("link"), bad("tap")}); err == nil {
		t.Error("a link that never worked was compared")
	}
	if tries["link"] != 2 || tries["tap"] != 2 || len(r.report.Skipped) != 4 || len(r.report.Results) != 0 {
		t.Errorf("tries %v, report %+v; want two of each, all named", tries, r.report)
	}
	if !strings.Contains(r.report.Skipped[0].Name+r.report.Skipped[0].Why, "tcg/link, round 1a reason") {
		t.Errorf("%+v", r.report.Skipped[0])
	}
}
