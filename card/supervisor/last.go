package supervisor

import (
	"os"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/atomicfile"
)

// lastPause is between two writes of last.json, each of which syncs the disk.
const lastPause = time.Second

// soon has last.json written: at once if the last write was lastPause ago.
func (b *board) soon() {
	select {
	case b.dirty <- struct{}{}:
	default:
	}
}

// write writes last.json when there is something new, until quit is closed.
func (b *board) write(quit <-chan struct{}) {
	for {
		select {
		case <-b.dirty:
			b.remember()
		case <-quit:
			return
		}
		select {
		case <-time.After(lastPause):
		case <-quit:
			return
		}
	}
}

// remember writes to last.json that this process runs the card.
func (b *board) remember() { b.leave(status.Running, nil) }

// leave writes to last.json how this process ended.
func (b *board) leave(state status.State, reasons []string) {
	b.leaving.Lock()
	defer b.leaving.Unlock()
	if b.left {
		return // a late event must not write that a supervisor runs
	}
	b.left = state != status.Running
	b.mu.Lock()
	l := status.Last{
		State: state, Reasons: reasons, Time: time.Now(), PID: os.Getpid(), Boot: store.BootID(), History: b.history.events,
	}
	b.mu.Unlock()
	if err := atomicfile.WriteJSON(b.path, l); err != nil {
		b.log.Printf("state: %v", err)
	}
}

// inherit takes over the history of the supervisor before, and notes when that
// one was killed.
func (b *board) inherit() {
	var l status.Last
	if atomicfile.ReadJSON(b.path, &l) != nil {
		return
	}
	b.mu.Lock()
	b.history.events = l.History[max(len(l.History)-maxHistory, 0):]
	b.mu.Unlock()
	if l.State == status.Running {
		b.event("supervisor %d before this one was killed; cleaned up after it", l.PID)
	}
}
