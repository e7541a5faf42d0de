package doctor

import (
	"context"
	"strings"
	"testing"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/internal/arch"
)

// A QEMU that no card needs is named with its package. One that a card needs is a failure with the fix.
func TestArchitectures(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	h := host(t)
	r := checkArchitectures(context.Background(), h)
	if r.State != Skip {
		t.Errorf("no card, no QEMU: %+v", r)
	}
	for _, a := range arch.All {
		if named := strings.Contains(r.Detail, a.Package+" for "); !a.IsHost() && !named {
			t.Errorf("%q lacks the package %s of %s", r.Detail, a.Package, a.Name)
		}
	}
	name := "s390x"
	if arch.Host().Name == name {
		name = "riscv64"
	}
	s := spec.Default("far")
	s.Machine.Arch = spec.Arch(name)
	if _, err := h.Dirs.Create(s, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	row := s.Row()
	r = checkArchitectures(context.Background(), h)
	want := "card far is " + name + ", and " + row.QEMU + " is not installed"
	if r.State != Fail || !strings.Contains(r.Detail, want) || r.Fix != "sudo apt install "+row.Package {
		t.Errorf("a card without its QEMU: %+v, want %q and the package %s", r, want, row.Package)
	}
}
