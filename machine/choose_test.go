package machine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/fake"
)

// A probe that found something is not made again; one that ran out of time is.
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

type countedMachine struct {
	fake.Machine
	probes int
}

func (m *countedMachine) Probe(ctx context.Context) (string, error) {
	m.probes++
	return m.Machine.Probe(ctx)
}
