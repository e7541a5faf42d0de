package firmware

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/toe-project/toe/internal/arch"
)

// Agent identifies the agent of an image or of this host.
type Agent struct {
	Version string `json:"version,omitempty"` // empty where the program does not say it
	SHA256  string `json:"sha256"`            // of the program
}

func (a Agent) check() error {
	if a.Version != "" && !versionPattern.MatchString(a.Version) {
		return fmt.Errorf("agent version %.64q: want a version", a.Version)
	}
	if !isSHA256(a.SHA256) {
		return fmt.Errorf("agent sha256 %.80q: want 64 hexadecimal digits", a.SHA256)
	}
	return nil
}

func (a Agent) String() string {
	if a.Version == "" {
		return fmt.Sprintf("%.12s", a.SHA256)
	}
	return fmt.Sprintf("%s (%.12s)", a.Version, a.SHA256)
}

// Difference describes how the agent of an image differs from that of this host, for display. It is
// empty if they are the same or either is unknown.
func (a Agent) Difference(host Agent) string {
	if a.SHA256 == "" || host.SHA256 == "" || a.SHA256 == host.SHA256 {
		return ""
	}
	return fmt.Sprintf("its agent is %v, this host has %v", a, host)
}

// HostAgent returns the agent that a build on this host puts into an image of an architecture: the
// one beside this program.
func HostAgent(architecture string) (Agent, error) {
	a, err := arch.Find(architecture)
	if err != nil {
		return Agent{}, err
	}
	path, err := agentPath(a)
	if err != nil {
		return Agent{}, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return Agent{}, err
	}
	return agentOf(program), nil
}

// versionMark precedes the version in the agent's program; a ";" ends it. The version is read from
// the file because a program of another architecture cannot be run.
const versionMark = "toe-agent-version="

func agentOf(program []byte) Agent {
	a := Agent{SHA256: member("", program).SHA256}
	if _, rest, ok := bytes.Cut(program, []byte(versionMark)); ok {
		version, _, ended := bytes.Cut(rest[:min(len(rest), 129)], []byte(";"))
		if ended && versionPattern.Match(version) {
			a.Version = string(version)
		}
	}
	return a
}

// agentName returns the file beside the toe program that becomes a card's /init.
func agentName(a arch.Arch) string {
	if a.IsHost() {
		return "toe-agent"
	}
	return "toe-agent-" + a.Name
}

func agentPath(a arch.Arch) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("finding %s beside this program: %w", agentName(a), err)
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	return filepath.Join(filepath.Dir(self), agentName(a)), nil
}

// readAgent reads the agent and checks that it is statically linked.
func readAgent(path string, a arch.Arch) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the card's agent %s is missing; want %s beside toe (in the source tree: make agents)", path, agentName(a))
	}
	if err != nil {
		return nil, fmt.Errorf("the card's agent: %w", err)
	}
	if err := checkStatic(b, a.Name); err != nil {
		return nil, fmt.Errorf("the card's agent %s: %w", path, err)
	}
	return b, nil
}

func checkStatic(program []byte, architecture string) error {
	a, err := arch.Find(architecture)
	if err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("not an ELF program: %w", err)
	}
	if err := a.CheckELF(f); err != nil {
		return err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("needs a dynamic linker; build it with CGO_ENABLED=0")
		}
	}
	return nil
}
