package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestFailedUnits(t *testing.T) {
	const list = "broken.service loaded failed failed a service\nx.mount not-found failed failed x.mount\nodd\nfine.service loaded active running fine\n"
	p := &unitsPart{}
	p.output = func(_ context.Context, name string, args ...string) ([]byte, error) {
		switch {
		case name == "systemctl":
			return []byte(list), nil
		case slices.Contains(args, "--unit=broken.service"):
			return []byte("one\x1b[31m\n" + strings.Repeat("y", 300) + "\n"), nil
		}
		return nil, errors.New("no journal")
	}
	p.look(t.Context())
	got := p.health()
	if len(got) != 2 || got[0].component != "unit broken.service" || got[0].state != degraded || got[1].detail != "failed" ||
		got[0].detail != "failed; its log ends: one?[31m | "+strings.Repeat("y", 200) {
		t.Errorf("%+v", got)
	}
	p.output = func(context.Context, string, ...string) ([]byte, error) {
		return nil, errors.New("systemd does not run yet")
	}
	if p.look(t.Context()); len(p.health()) != 2 {
		t.Errorf("an answer that is missing changes what is known: %+v", p.health())
	}
	p.output = func(context.Context, string, ...string) ([]byte, error) { return nil, nil }
	if p.look(t.Context()); len(p.health()) != 0 {
		t.Errorf("none is failed: %+v", p.health())
	}
	p.output = func(_ context.Context, name string, _ ...string) ([]byte, error) {
		if name != "systemctl" {
			return nil, errors.New("no journal")
		}
		return []byte(strings.Repeat("a.service loaded failed failed\n", 10)), nil
	}
	if p.look(t.Context()); len(p.health()) != maxUnits+1 || !strings.HasPrefix(p.health()[maxUnits].detail, "2 more") {
		t.Errorf("ten failed: %+v", p.health())
	}
}
