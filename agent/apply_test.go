package agent

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// fakePart writes down what becomes of its step.
type fakePart struct {
	idle
	name                    string
	done                    *[]string
	refuse, failDo, failUnd error
}

func (f *fakePart) plan(now, next *control.Config) ([]step, error) {
	note := func(what string, err error) func() error {
		return func() error {
			*f.done = append(*f.done, what+" "+f.name)
			return err
		}
	}
	return []step{{f.name, note("do", f.failDo), note("undo", f.failUnd)}}, f.refuse
}

// TestTransaction: all parts plan before the first changes anything, and what
// was done is undone in reverse order, the step that failed too.
func TestTransaction(t *testing.T) {
	no := errors.New("no")
	for name, tt := range map[string]struct {
		change func(first, second *fakePart)
		want   []string
		err    string
		torn   string
	}{
		"both":             {func(_, _ *fakePart) {}, []string{"do first", "do second"}, "", ""},
		"a plan refuses":   {func(_, s *fakePart) { s.refuse = no }, nil, "no", ""},
		"a step fails":     {func(_, s *fakePart) { s.failDo = no }, []string{"do first", "do second", "undo second", "undo first"}, "second: no", ""},
		"the first fails":  {func(f, _ *fakePart) { f.failDo = no }, []string{"do first", "undo first"}, "first: no", ""},
		"no way back":      {func(f, s *fakePart) { s.failDo, f.failUnd = no, no }, []string{"do first", "do second", "undo second", "undo first"}, "not whole", "undo first: no"},
		"no way back here": {func(_, s *fakePart) { s.failDo, s.failUnd = no, no }, []string{"do first", "do second", "undo second", "undo first"}, "not whole", "undo second: no"},
	} {
		t.Run(name, func(t *testing.T) {
			var done []string
			first, second := &fakePart{name: "first", done: &done}, &fakePart{name: "second", done: &done}
			tt.change(first, second)
			now := &control.Config{Name: "now"}
			a := &Agent{env: &env{log: NewLog(t.Output()), run: t.Context(), conf: now, parts: []part{first, second}}}
			next := valid(t)
			_, err := a.Apply(t.Context(), next)
			if !slices.Equal(done, tt.want) {
				t.Errorf("done %q, want %q", done, tt.want)
			}
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want %q", err, tt.err)
			}
			if want := map[bool]*control.Config{true: next, false: now}[err == nil]; a.config() != want {
				t.Errorf("in force is %q, want %q", a.config().Name, want.Name)
			}
			h := a.health()
			if torn := len(h) == 1 && h[0].state == degraded && strings.Contains(h[0].detail, tt.torn); torn != (tt.torn != "") {
				t.Errorf("health %v, want %q", h, tt.torn)
			}
			// The next change that succeeds makes the card whole.
			*first, *second = fakePart{name: "first", done: &done}, fakePart{name: "second", done: &done}
			if _, err := a.Apply(t.Context(), next); err != nil || len(a.health()) != 0 {
				t.Errorf("the next change: %v, health %v", err, a.health())
			}
		})
	}
}

func valid(t *testing.T) *control.Config {
	t.Helper()
	c, err := control.ParseConfig([]byte(`{"name": "next", "mode": "router", "nat": false, "links": [
		{"name": "pci0", "mac": "02:00:00:00:00:01", "card": ["10.0.0.1/31"], "host": ["10.0.0.0"]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRemovedPortStaysAway: a port whose device was missing is removed from
// the configuration. When the device comes after all, nothing touches it.
func TestRemovedPortStaysAway(t *testing.T) {
	const mac = "02:00:00:00:00:55"
	c := startCard(t, func(c *card) {
		c.conf.Ports = append(c.conf.Ports, control.Port{Name: "lan", MAC: mac, Addresses: []string{"198.51.100.9/24"}})
	})
	client := c.client(t, cardIP, c.keys)
	eventually(t, 5*time.Second, "the port wan", func() error {
		s, err := client.Status(t.Context(), &cardpb.StatusRequest{})
		if err == nil && !slices.ContainsFunc(s.Components, func(r *cardpb.Reason) bool { return r.Component == "port wan" && r.State == healthy }) {
			err = fmt.Errorf("components %v", s.Components)
		}
		return err
	})
	if _, err := c.apply(t, c.next(func(n *control.Config) { n.Ports = n.Ports[:1] })); err != nil {
		t.Fatal(err)
	}
	cable(t, "eth5", mac, c.wire, "srv5", "")
	time.Sleep(2500 * time.Millisecond) // port.keepTrying pauses for two seconds at most
	dev, err := c.nl.LinkByName("eth5")
	if err != nil {
		t.Fatalf("the device was renamed: %v", err)
	}
	if have := addresses(c.nl, dev); len(have) != 0 {
		t.Errorf("the device has %v", have)
	}
}
