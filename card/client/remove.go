package client

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/flock"
)

// Remove deletes a card that is not running. It holds the card's lock, so
// that no supervisor starts what is being deleted.
func Remove(c *store.Card) error {
	l, err := c.Lock()
	if errors.Is(err, store.ErrRunning) {
		pid, _, _ := flock.Owner(c.Paths.Lock())
		return fmt.Errorf("card %s: %w (supervisor %d); `toe down %s` first", c.Name, err, pid, c.Name)
	}
	if err != nil {
		return fmt.Errorf("card %s: %w", c.Name, err)
	}
	defer l.Release()
	if err := hostnet.Clean(c); err != nil {
		return err
	}
	// The specification goes first: what has none is no card, and a removal that was
	// cut short can be repeated.
	if err := os.Remove(c.Paths.Spec()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(os.RemoveAll(c.Paths.State), removeRuntime(c.Paths.Runtime))
}

// removeRuntime removes the runtime folder, with the lock in it. A process that
// waits for the lock may make the file again meanwhile. Then the folder is its own.
func removeRuntime(dir string) error {
	var err error
	for range 3 {
		if err = os.RemoveAll(dir); !errors.Is(err, syscall.ENOTEMPTY) {
			return err
		}
	}
	return nil
}

// CleanDead puts back what a killed supervisor left, and forgets that it was
// killed. It returns ErrRunning when there is a living one.
func CleanDead(c *store.Card) error {
	l, err := c.Lock()
	if err != nil {
		return fmt.Errorf("card %s: %w", c.Name, err)
	}
	defer l.Release()
	if err := hostnet.Clean(c); err != nil {
		return err
	}
	var had status.Last
	if atomicfile.ReadJSON(c.Paths.Last(), &had) == nil && had.State == status.Running {
		had.State = status.Stopped
		text := fmt.Sprintf("supervisor %d was killed; cleaned up after it", had.PID)
		had.History = append(had.History, status.Event{Time: time.Now(), Text: text})
		return atomicfile.WriteJSON(c.Paths.Last(), had)
	}
	return nil
}
