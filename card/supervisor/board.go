package supervisor

import (
	"context"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/control/cardpb"
)

// board is what the supervisor knows of a card: its stage and state, what is wrong on
// the host's side, and what happened.
type board struct {
	log  *log.Logger
	path string // of last.json

	began time.Time

	dirty chan struct{} // last.json is out of date

	leaving sync.Mutex // held while last.json is written
	left    bool       // it says how this supervisor ended; guarded by leaving

	// mu guards what follows. A reader may be a moment behind the machine, never
	// inconsistent. Nothing waits with mu held.
	mu       sync.Mutex
	phase    status.State // Starting or Healthy: whether the agent has answered in this life
	stage    string       // what is being done or waited for
	stopping bool
	pid      int                    // of the machine; 0: it is off
	reply    *cardpb.StatusResponse // the agent's last in this life
	replied  time.Time
	troubles map[string]string // by component: what is wrong on the host's side
	history  history
	restarts int
	ready    time.Duration // how long the first start took
	sequence uint64        // grows with each change
	changed  chan struct{} // closed and replaced when sequence grows
}

func newBoard(path string, logger *log.Logger) *board {
	return &board{
		log: logger, path: path, began: time.Now(), phase: status.Starting, dirty: make(chan struct{}, 1),
		troubles: map[string]string{}, changed: make(chan struct{}), history: newHistory(),
	}
}

// change alters the status, and wakes the requests that wait for a change.
func (b *board) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	b.notify()
}

// notify wakes the requests that wait for a change. Called with mu held.
func (b *board) notify() {
	b.sequence++
	close(b.changed)
	b.changed = make(chan struct{})
}

// await returns when the sequence is above after, or when ctx ends.
func (b *board) await(ctx context.Context, after uint64) {
	for {
		b.mu.Lock()
		now, changed := b.sequence, b.changed
		b.mu.Unlock()
		if now > after {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (b *board) setStage(stage string) {
	b.log.Printf("stage: %s", stage)
	b.change(func() { b.stage = stage })
}

// stageNow is what is being done or waited for.
func (b *board) stageNow() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stage
}

// trouble sets what is wrong with a component on the host's side. An empty text
// clears it.
func (b *board) trouble(component, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.troubles[component] == text {
		return
	}
	b.troubles[component] = text
	if text == "" {
		delete(b.troubles, component)
	}
	b.notify()
}

// connected notes that a booting card has taken a connection.
func (b *board) connected() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stage == booting {
		b.stage = "waiting for the agent"
		b.notify()
	}
}

// hear takes a reply of the agent.
func (b *board) hear(reply *cardpb.StatusResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reply == nil || b.reply.Health != reply.Health || len(b.reply.Reasons) != len(reply.Reasons) {
		b.notify()
	}
	b.reply, b.replied = reply, time.Now()
}

// heard reports whether the agent has answered in this life, and else why not.
func (b *board) heard() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.reply != nil {
		return nil
	}
	if b.stage != "" {
		return fmt.Errorf("is not ready (%s)", b.stage)
	}
	return fmt.Errorf("is not ready (%s)", b.phase)
}

// silence is how long ago the agent answered last.
func (b *board) silence() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return time.Since(b.replied)
}

// verdict reports whether the agent is healthy, and if not, whether something is still
// under way.
func (b *board) verdict() (healthy, pending bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.reply.GetComponents() {
		pending = pending || c.State == cardpb.Health_HEALTH_STARTING
	}
	h := b.reply.GetHealth()
	return h == cardpb.Health_HEALTH_HEALTHY, pending || h == cardpb.Health_HEALTH_STARTING
}

// fault is what the agent says is wrong.
func (b *board) fault() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, r := range b.reply.GetReasons() {
		all = append(all, r.Component+": "+r.Detail)
	}
	return strings.Join(all, "; ")
}

// state returns the card's state and the reasons for it. clearer may reword a
// reason of the agent's. Called with mu held.
func (b *board) state(clearer func(component, detail string) string) (status.State, []string) {
	reasons := []string{}
	for component, text := range b.troubles {
		reasons = append(reasons, component+": "+text)
	}
	slices.Sort(reasons)
	switch {
	case b.stopping:
		return status.Stopped, append(reasons, b.stage)
	case b.phase == status.Starting:
		if b.stage != "" {
			reasons = append(reasons, b.stage)
		}
		return status.Starting, reasons
	}
	if b.reply == nil || b.reply.Health == cardpb.Health_HEALTH_HEALTHY && len(reasons) == 0 {
		return status.Healthy, reasons
	}
	for _, r := range b.reply.Reasons {
		reasons = append(reasons, r.Component+": "+clearer(r.Component, r.Detail))
	}
	if b.reply.Health == cardpb.Health_HEALTH_STARTING && len(b.troubles) == 0 {
		return status.Starting, reasons
	}
	return status.Degraded, reasons
}

// report adds to st what the board knows, and returns the agent's last reply
// with its age.
func (b *board) report(st *status.Status, clearer func(component, detail string) string) (
	*cardpb.StatusResponse, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	st.State, st.Reasons = b.state(clearer)
	st.Stage, st.Sequence, st.Restarts = b.stage, b.sequence, b.restarts
	st.History = slices.Clone(b.history.events)
	st.Supervisor.PID = os.Getpid()
	st.ReadySeconds = b.ready.Seconds()
	st.Machine.PID = b.pid
	return b.reply, time.Since(b.replied)
}
