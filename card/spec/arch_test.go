package spec

import (
	"fmt"
	"strings"
	"testing"

	"github.com/toe-project/toe/internal/arch"
)

// Each mistake names its key and says what is wanted.
func TestArchMistakes(t *testing.T) {
	foreign := "s390x"
	if arch.Host().Name == foreign {
		foreign = "riscv64"
	}
	list := strings.Join(arch.Names(), ", ")
	for machine, want := range map[string]string{
		"arch: vax":                   `machine.arch: "vax": want one of ` + list,
		"arch: aarch64":               `machine.arch: "aarch64": want one of ` + list + `; did you mean "arm64"?`,
		"arch: risc64":                `did you mean "riscv64"?`,
		"arch: ''":                    `machine.arch: "": want one of ` + list,
		"arch: [arm64]":               `machine.arch: `,
		"arch: mipsel, memory: 3GiB":  `machine.memory: 3GiB: the board of mipsel takes 2GiB at most`,
		"arch: armhf, memory: 4GiB":   `machine.memory: 4GiB: the board of armhf takes 3GiB at most`,
		"arch: mips64el, cpus: 2":     `machine.cpus: 2: the board of mips64el takes 1 at most`,
		"arch: armhf, cpus: 9":        `machine.cpus: 9: the board of armhf takes 8 at most`,
		"kind: uml, arch: " + foreign: fmt.Sprintf(`machine.kind: "uml": runs only cards of the host's architecture, %s, and machine.arch is %s; want tcg or auto`, arch.Host().Name, foreign),
		"kind: kvm, arch: " + foreign: fmt.Sprintf(`machine.kind: "kvm": runs only cards of the host's architecture, %s, and machine.arch is %s; want tcg or auto`, arch.Host().Name, foreign),
	} {
		_, err := Parse("card.yaml", fmt.Appendf(nil, "machine: {%s}\n", machine))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("machine: {%s}: %v, want %q", machine, err, want)
		}
	}
	for _, a := range arch.All {
		for _, kind := range []string{"auto", "tcg"} {
			s, err := Parse("card.yaml", fmt.Appendf(nil, "machine: {arch: %s, kind: %s}\n", a.Name, kind))
			if err != nil || s.Row().Name != a.Name {
				t.Errorf("arch %s, kind %s: %v, row %s", a.Name, kind, err, s.Row().Name)
			}
		}
	}
}
