package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/toe-project/toe/machine"
)

// features describes this host's QEMU.
type features struct {
	path         string
	major, minor int
	msix         bool // a vhost-user device may have MSI-X
}

// atLeast reports whether the version is major.minor or later.
func (f features) atLeast(major, minor int) bool {
	return f.major > major || f.major == major && f.minor >= minor
}

// reconnect returns the chardev option for reconnecting. QEMU 9.2 brought the one in milliseconds
// and warns about the older one in seconds.
func (f features) reconnect() string {
	if f.atLeast(9, 2) {
		return "reconnect-ms=100"
	}
	return "reconnect=1"
}

// seen caches the features of a binary while the file is unchanged.
var seen struct {
	sync.Mutex
	versions map[string]features // by path, modification time and size; guarded by Mutex
	msix     map[string]bool     // the same; guarded by Mutex
}

var versionLine = regexp.MustCompile(`version (\d+)\.(\d+)`)

// look returns the features that matter for a card; vhost says that it has a vhost-user device.
func (m *Machine) look(ctx context.Context, path string, vhost bool) (features, error) {
	st, err := os.Stat(path)
	if err != nil {
		return features{}, err
	}
	key := fmt.Sprintf("%s %d %d", path, st.ModTime().UnixNano(), st.Size())
	seen.Lock()
	defer seen.Unlock()
	f, ok := seen.versions[key]
	if !ok {
		if f, err = version(ctx, path); err != nil {
			return f, err
		}
		if seen.versions == nil {
			seen.versions, seen.msix = map[string]features{}, map[string]bool{}
		}
		seen.versions[key] = f
	}
	switch {
	case m.cfg.Kind == machine.KVM:
		f.msix = true // the fault occurs only without KVM's interrupts
	case vhost && m.cfg.Arch.Probe:
		f.msix = m.tryMSIX(ctx, key, f)
	}
	return f, nil
}

// tryMSIX runs the MSI-X trial once for each binary. The caller holds seen's lock, so that twenty
// cards that start at once make one trial.
func (m *Machine) tryMSIX(ctx context.Context, key string, f features) bool {
	if works, ok := seen.msix[key]; ok {
		return works
	}
	works, err := m.msixWorks(ctx, f)
	if err == nil {
		seen.msix[key] = works
	}
	return works
}

func version(ctx context.Context, path string) (features, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return features{}, fmt.Errorf("%s --version: %w: %.200s", path, err, out)
	}
	v := versionLine.FindSubmatch(out)
	if v == nil {
		return features{}, fmt.Errorf("%s --version: no version in %.200q", path, out)
	}
	f := features{path: path}
	f.major, _ = strconv.Atoi(string(v[1])) // digits, by the expression
	f.minor, _ = strconv.Atoi(string(v[2]))
	return f, nil
}

// checkBoard returns an error if the QEMU lacks the board of the card's architecture.
func (m *Machine) checkBoard(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "-machine", "help").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s -machine help: %w: %.200s", path, err, out)
	}
	board, _, _ := strings.Cut(m.cfg.Arch.Board, ",")
	for line := range strings.Lines(string(out)) {
		if name, _, _ := strings.Cut(line, " "); name == board {
			return nil
		}
	}
	return fmt.Errorf("machine.arch %s: %s has no board %s; want the QEMU of Debian's package %s",
		m.cfg.Arch.Name, path, board, m.cfg.Arch.Package)
}
