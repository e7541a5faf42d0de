package hostnet

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet/passt"
	"github.com/toe-project/toe/internal/fds"
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
	att, err := NewHost(&store.Card{}, t.Logf).Port(t.Context(), p, nil, machine.UML)
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
