// Package fake is a machine without a CPU, for tests of everything above the hardware seam. It
// records the starts, and its instances end as a script says.
package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/toe-project/toe/machine"
)

// Step scripts one start.
type Step struct {
	Err     error                             // Start fails with it
	After   time.Duration                     // time to the exit, if Exit.Cause is set
	Exit    machine.Exit                      // the zero Exit runs until Stop or End
	Console string                            // written to the console at the start
	Run     func(machine.Spec, io.ReadWriter) // the card on the console; ends when reads fail
	Started func(machine.Spec, *Instance)     // called before Start returns
}

// Machine plays its steps in order and repeats the last one. The zero value starts cards that run
// until they are stopped.
type Machine struct {
	Steps    []Step
	ProbeErr error        // result of Probe
	Name     machine.Kind // result of Kind; empty means machine.Fake

	mu        sync.Mutex
	specs     []machine.Spec // guarded by mu
	instances []*Instance    // guarded by mu
}

var _ machine.Machine = (*Machine)(nil)

// Kind returns Name, or machine.Fake.
func (m *Machine) Kind() machine.Kind {
	if m.Name != "" {
		return m.Name
	}
	return machine.Fake
}

// Nets returns all kinds.
func (m *Machine) Nets() []machine.NetKind {
	return []machine.NetKind{machine.VhostUser, machine.UserNet}
}

// Probe returns ProbeErr.
func (m *Machine) Probe(ctx context.Context) (string, error) {
	if m.ProbeErr != nil {
		return "", m.ProbeErr
	}
	return "the fake always works", ctx.Err()
}

// Specs returns the specs of all starts so far, including failed ones. Console is nil.
func (m *Machine) Specs() []machine.Spec {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]machine.Spec(nil), m.specs...)
}

// Instances returns the instances started so far.
func (m *Machine) Instances() []*Instance {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]*Instance(nil), m.instances...)
}

// Start plays the next step.
func (m *Machine) Start(ctx context.Context, spec machine.Spec) (machine.Instance, error) {
	step := m.next(spec)
	console := spec.Console
	if err := errors.Join(step.Err, ctx.Err()); err != nil {
		if console != nil {
			console.Close()
		}
		return nil, fmt.Errorf("card %s: %w", spec.Name, err)
	}
	i := &Instance{console: console, done: make(chan struct{})}
	m.mu.Lock()
	m.instances = append(m.instances, i)
	m.mu.Unlock()
	if step.Started != nil {
		step.Started(spec, i)
	}
	i.play(step, spec)
	return i, nil
}

func (m *Machine) next(spec machine.Spec) Step {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.specs)
	kept := spec
	kept.Console = nil // it belongs to the instance
	m.specs = append(m.specs, kept)
	if len(m.Steps) == 0 {
		return Step{}
	}
	return m.Steps[min(n, len(m.Steps)-1)]
}

// Instance is a scripted card.
type Instance struct {
	console *os.File
	once    sync.Once
	exit    machine.Exit // valid after done
	done    chan struct{}
}

var _ machine.Instance = (*Instance)(nil)

func (i *Instance) play(step Step, spec machine.Spec) {
	if i.console != nil && step.Console != "" {
		// Output from before the end can be read after it.
		_, _ = io.WriteString(i.console, step.Console)
	}
	if i.console != nil && step.Run != nil {
		go step.Run(spec, i.console)
	}
	if step.Exit.Cause != "" {
		time.AfterFunc(step.After, func() { i.End(step.Exit) })
	}
}

// End ends the instance with that exit, unless it has ended already.
func (i *Instance) End(exit machine.Exit) {
	i.once.Do(func() {
		i.exit = exit
		if i.console != nil {
			i.console.Close()
		}
		close(i.done)
	})
}

// PID returns that of the calling process: there is no other.
func (i *Instance) PID() int { return os.Getpid() }

// Done is closed by End and Stop.
func (i *Instance) Done() <-chan struct{} { return i.done }

// Exit is valid after Done.
func (i *Instance) Exit() machine.Exit { return i.exit }

// Stop ends the instance with machine.Stopped.
func (i *Instance) Stop(context.Context) error {
	i.End(machine.Exit{Cause: machine.Stopped})
	return nil
}
