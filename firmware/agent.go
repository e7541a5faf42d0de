package firmware

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// agentName is the file beside the toe program that becomes a card's /init.
const agentName = "toe-agent"

func defaultAgent() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding %s beside this program: %w", agentName, err)
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	return filepath.Join(filepath.Dir(self), agentName), nil
}

// readAgent reads the agent and makes sure that a kernel with nothing else
// can start it.
func readAgent(path, arch string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the card's agent %s is missing: %s must be installed beside toe (make builds both)", path, agentName)
	}
	if err != nil {
		return nil, fmt.Errorf("the card's agent: %w", err)
	}
	if err := checkStatic(b, arch); err != nil {
		return nil, fmt.Errorf("the card's agent %s: %w", path, err)
	}
	return b, nil
}

var elfMachines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "riscv64": elf.EM_RISCV}

func checkStatic(program []byte, arch string) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("is no ELF program: %w", err)
	}
	if want, ok := elfMachines[arch]; ok && f.Machine != want {
		return fmt.Errorf("is for %v, must be for %v", f.Machine, want)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("needs a dynamic linker; build it with CGO_ENABLED=0")
		}
	}
	return nil
}
