package store

import (
	"errors"
	"testing"
)

// A supervisor has read its specification: it is not replaced behind its back.
func TestSpecificationOfARunningCardStays(t *testing.T) {
	c := testCard(t, "")
	l, err := c.Lock()
	if err != nil {
		t.Fatal(err)
	}
	want := c.Spec
	want.Machine.CPUs = 7
	if err := c.SetSpec(want); !errors.Is(err, ErrRunning) {
		t.Errorf("with the lock held: %v, want ErrRunning", err)
	}
	now, err := c.Dirs.Open(c.Name)
	if err != nil || now.Spec.Machine.CPUs == 7 || c.Spec.Machine.CPUs == 7 {
		t.Errorf("card.yaml was replaced: %d CPUs, %v", now.Spec.Machine.CPUs, err)
	}
	l.Release()
	if err := c.SetSpec(want); err != nil {
		t.Fatal(err)
	}
	if now, err = c.Dirs.Open(c.Name); err != nil || now.Spec.Machine.CPUs != 7 {
		t.Errorf("without: %d CPUs, %v; want 7", now.Spec.Machine.CPUs, err)
	}
}
