package hostnet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet/passt"
	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/machine"
)

// Where passt is missing QEMU has a network of its own; the others have not.
func TestUserPortWithoutPasst(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	h := NewHost(&store.Card{}, t.Logf)
	p := spec.Port{Name: "wan", Attach: spec.Attach{Kind: spec.AttachUser}, MTU: 1500}
	for _, kind := range []machine.Kind{machine.TCG, machine.KVM} {
		if att, err := h.Port(t.Context(), p, nil, kind); att != nil || err != nil {
			t.Errorf("%s: %v, %v; want nothing, and QEMU's own network", kind, att, err)
		}
	}
	if _, err := h.Port(t.Context(), p, nil, machine.UML); !errors.Is(err, passt.ErrMissing) {
		t.Errorf("uml: %v, want %v", err, passt.ErrMissing)
	}
}

// untested is a chooser that takes the host's passt for a good one.
func untested(context.Context, string, *progress.Progress) (passt.Program, error) {
	return passt.Program{Argv: []string{"passt"}}, nil
}

// A port whose passt moves wrong data is not opened, and no other network takes
// its place.
func TestUserPortWithFaultyPasst(t *testing.T) {
	h := NewHost(&store.Card{}, t.Logf)
	h.passt = func(context.Context, string, *progress.Progress) (passt.Program, error) {
		return passt.Program{}, passt.ErrFaulty
	}
	p := spec.Port{Name: "wan", Attach: spec.Attach{Kind: spec.AttachUser}, MTU: 1500}
	for _, kind := range []machine.Kind{machine.TCG, machine.KVM, machine.UML} {
		if att, err := h.Port(t.Context(), p, nil, kind); att != nil || !errors.Is(err, passt.ErrFaulty) {
			t.Errorf("%s: %v, %v, want %v", kind, att, err, passt.ErrFaulty)
		}
	}
}

// A host without a default route is the reason that is told, not what a DHCP
// client on the card sees of it.
func TestUserPortWithoutRoute(t *testing.T) {
	if !ownHost(t) {
		return
	}
	dir := t.TempDir() // a passt that must not be started
	if err := os.WriteFile(filepath.Join(dir, "passt"), []byte("#!/bin/false\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	p := spec.Port{Name: "wan", Attach: spec.Attach{Kind: spec.AttachUser}, MTU: 1500}
	h := NewHost(&store.Card{}, t.Logf)
	h.passt = untested
	att, err := h.Port(t.Context(), p, nil, machine.UML)
	if err != nil {
		t.Fatal(err)
	}
	defer fds.CloseAll(att.Files)
	defer att.Detach()
	for began := time.Now(); att.Waiting() != passt.NoRoute; time.Sleep(time.Millisecond) {
		if time.Since(began) > 3*time.Second {
			t.Fatalf("waits for %q, want %q", att.Waiting(), passt.NoRoute)
		}
	}
}
