package store

import (
	"fmt"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/flock"
)

// SaveSpec writes card.yaml. The caller holds the card's lock, or is making the
// card.
func (c *Card) SaveSpec() error {
	data, err := c.Spec.YAML()
	if err != nil {
		return err
	}
	return atomicfile.Write(c.Paths.Spec(), data, 0o600)
}

// Replace gives an existing card a new specification. A running card must have
// the same one already.
func (c *Card) Replace(want spec.Spec) error {
	want = c.Fill(want)
	live, restart := spec.Diff(c.Spec, want)
	if len(live)+len(restart) == 0 {
		return nil
	}
	_, held, err := flock.Owner(c.Paths.Lock())
	if err != nil {
		return err
	}
	if held {
		return fmt.Errorf("card %s is running with another specification (%s); `toe apply -f FILE` changes it",
			c.Name, append(restart, live...)[0])
	}
	return c.SetSpec(want)
}

// SetSpec replaces the specification of a card that is not running. It holds the
// card's lock, and returns ErrRunning where a supervisor does.
func (c *Card) SetSpec(want spec.Spec) error {
	l, err := c.Lock()
	if err != nil {
		return fmt.Errorf("card %s: card.yaml: %w", c.Name, err)
	}
	defer l.Release()
	before := c.Spec
	c.Spec = c.Fill(want)
	if err := c.SaveSpec(); err != nil {
		c.Spec = before
		return err
	}
	return nil
}

// Fill returns want with the card's name, and with its authorized keys where want
// has none.
func (c *Card) Fill(want spec.Spec) spec.Spec {
	want.Name = c.Name
	if want.SSH.AuthorizedKeys == nil {
		want.SSH.AuthorizedKeys = c.Spec.SSH.AuthorizedKeys
	}
	return want
}
