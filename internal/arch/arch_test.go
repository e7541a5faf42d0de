package arch

import (
	"debug/elf"
	"os"
	"strings"
	"testing"
)

// Each row is complete, and no two have the same name or compiler target.
func TestRows(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range All {
		for field, value := range map[string]string{
			"Name": a.Name, "Go": a.Go, "Kernel": a.Kernel, "Image": a.Image, "QEMU": a.QEMU, "Package": a.Package,
			"Board": a.Board, "CPU": a.CPU, "Console": a.Console, "Bus": string(a.Bus),
		} {
			if value == "" {
				t.Errorf("%s: no %s", a.Name, field)
			}
		}
		if len(a.Releases) == 0 || a.MaxMemory < 1<<30 || a.MaxCPUs < 1 || a.ELF == elf.EM_NONE || a.Class == 0 || a.Order == 0 {
			t.Errorf("%s: incomplete: %+v", a.Name, a)
		}
		if seen[a.Name] || seen[a.Go] && a.Go != a.Name {
			t.Errorf("%s: twice", a.Name)
		}
		seen[a.Name], seen[a.Go] = true, true
	}
}

func TestFind(t *testing.T) {
	for name, want := range map[string]string{
		"arm64": "", "aarch64": `did you mean "arm64"?`, "x86_64": `did you mean "amd64"?`, "mips": `did you mean "mipsel"?`,
		"riscv46": `did you mean "riscv64"?`, "": "want one of", "vax": "want one of",
	} {
		_, err := Find(name)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
}

// This test is a program of the host's architecture, and of no other.
func TestCheckELF(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, a := range All {
		if err := a.CheckELF(f); (err == nil) != a.IsHost() {
			t.Errorf("%s: %v", a.Name, err)
		}
	}
}
