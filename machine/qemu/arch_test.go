package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/machine"
)

// Each reason why a QEMU cannot run the architecture names it, and the package where one is missing.
func TestCannotRun(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "qemu-other")
	script := "#!/bin/sh\ncase $1 in --version) echo QEMU emulator version 7.2.22 ;; -machine) echo 'none  empty machine' ;; esac\n"
	if err := os.WriteFile(other, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	a, err := arch.Find("s390x")
	if err != nil {
		t.Fatal(err)
	}
	for binary, want := range map[string]string{
		filepath.Join(dir, "missing"): "machine.arch s390x: QEMU is not installed (Debian: qemu-system-s390x)",
		other:                         "machine.arch s390x: " + other + " has no board s390-ccw-virtio; want the QEMU of Debian's package qemu-system-s390x",
	} {
		_, err := New(Config{Kind: machine.TCG, Arch: a, Binary: binary}).Probe(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if missing := strings.Contains(want, "installed"); errors.Is(err, ErrNotInstalled) != missing {
			t.Errorf("%v: is ErrNotInstalled %v, want %v", err, !missing, missing)
		}
	}
}

// A board gets no more than it takes.
func TestBoardLimits(t *testing.T) {
	for _, a := range arch.All {
		m := New(Config{Kind: machine.TCG, Arch: a})
		for _, s := range []machine.Spec{{Memory: a.MaxMemory + 1<<20}, {Memory: 64 << 20, CPUs: a.MaxCPUs + 1}} {
			if err := m.check(s); err == nil || !strings.Contains(err.Error(), "the board of "+a.Name+" takes") {
				t.Errorf("%s, %d bytes, %d CPUs: %v", a.Name, s.Memory, s.CPUs, err)
			}
		}
	}
}

// Where a row asks for it, time is counted in one thread, the board's clock included. KVM's is the
// host's.
func TestOneThread(t *testing.T) {
	for _, a := range arch.All {
		for _, kind := range []machine.Kind{machine.TCG, machine.KVM} {
			args := New(Config{Kind: kind, Arch: a}).baseArguments(64 << 20)
			want := a.OneThread && kind == machine.TCG
			for _, option := range []string{"-icount", "-rtc", "tcg,thread=single"} {
				if slices.Contains(args, option) != want {
					t.Errorf("%s on %s: %q is in %q: %v, want %v", a.Name, kind, option, args, !want, want)
				}
			}
		}
	}
}
