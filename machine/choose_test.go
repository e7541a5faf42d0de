package machine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/privilege"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/fake"
)

// A probe with a result is not repeated. A probe that timed out is.
func TestProbesAreRemembered(t *testing.T) {
	m := &countedMachine{}
	k := machine.Kinds{Machines: []machine.Machine{m}, Cache: t.TempDir(), Depends: func(machine.Kind) []string { return nil }}
	for _, c := range []struct {
		err    error
		probes int
	}{
		{fmt.Errorf("first program: %w", context.DeadlineExceeded), 1},
		{fmt.Errorf("first program: %w", context.DeadlineExceeded), 2},
		{errors.New("a fault"), 3},
		{nil, 3}, // it stays as it was found
	} {
		m.ProbeErr = c.err
		_, _, err := k.Choose(t.Context(), "auto")
		if err == nil || m.probes != c.probes {
			t.Errorf("with %v: %v after %d probes, want %d", c.err, err, m.probes, c.probes)
		}
	}
}

// A missing privilege of this process says nothing about the host. It is reported once, with what
// provides it, and is not cached.
func TestMissingPrivilegeIsNotRemembered(t *testing.T) {
	m, second := &countedMachine{}, &countedMachine{}
	k := machine.Kinds{
		Machines: []machine.Machine{m, second}, Cache: t.TempDir(),
		Depends: func(machine.Kind) []string { return nil },
	}
	m.ProbeErr = fmt.Errorf("probe: %w", privilege.Lacks("new namespaces", unix.EPERM, privilege.SysAdmin))
	_, _, err := k.Choose(t.Context(), "auto")
	if privilege.Of(err) == nil || second.probes != 0 {
		t.Errorf("%v, %d probes of the second kind; want a Missing, and none", err, second.probes)
	}
	m.ProbeErr = nil
	if _, _, err := k.Choose(t.Context(), "auto"); err != nil {
		t.Errorf("with the privilege: %v", err)
	}
}

type countedMachine struct {
	fake.Machine
	probes int
}

func (m *countedMachine) Probe(ctx context.Context) (string, error) {
	m.probes++
	return m.Machine.Probe(ctx)
}
