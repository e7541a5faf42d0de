package card

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/machine"
)

// Where passt is missing QEMU has a network of its own; the others have not.
func TestUserPortWithoutPasst(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	h := NewHost(&Card{}, t.Logf)
	p := PortSpec{Name: "wan", Attach: Attach{Kind: AttachUser}, MTU: 1500}
	for _, kind := range []machine.Kind{machine.TCG, machine.KVM} {
		if att, err := h.Port(t.Context(), p, nil, kind); att != nil || err != nil {
			t.Errorf("%s: %v, %v; want nothing, and QEMU's own network", kind, att, err)
		}
	}
	if _, err := h.Port(t.Context(), p, nil, machine.UML); !errors.Is(err, errNoPasst) {
		t.Errorf("uml: %v, want %v", err, errNoPasst)
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
	p := PortSpec{Name: "wan", Attach: Attach{Kind: AttachUser}, MTU: 1500}
	att, err := NewHost(&Card{}, t.Logf).Port(t.Context(), p, nil, machine.UML)
	if err != nil {
		t.Fatal(err)
	}
	defer fds.CloseAll(att.Files)
	defer att.close()
	for began := time.Now(); att.waits() != noRoute; time.Sleep(time.Millisecond) {
		if time.Since(began) > 3*time.Second {
			t.Fatalf("waits for %q, want %q", att.waits(), noRoute)
		}
	}
}
