// Package qemu runs a card in QEMU: with hardware virtualization (kvm), or with QEMU's translator
// (tcg), which works everywhere and is slow.
//
// QEMU runs in a cell (internal/sandbox): a separate user if the caller is root, a file system with
// only the system's programs and the card's files, no other process visible, and no network unless
// a port uses QEMU's user-mode network. Its system calls are filtered by QEMU's own -sandbox, which
// knows what QEMU needs.
package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/machine"
)

// Config selects the QEMU that runs cards and its user.
type Config struct {
	Kind   machine.Kind // machine.KVM or machine.TCG
	Arch   arch.Arch    // of the card; default that of the host
	Binary string       // a path, or a name to look up; empty means Arch.QEMU
	// UID and GID are for a root caller; 0 means the user nobody.
	UID, GID int
}

// Machine is QEMU on this host.
type Machine struct{ cfg Config }

// New makes the machine. It reads nothing of the host; Probe and Start do.
func New(cfg Config) *Machine {
	if cfg.Arch.Name == "" {
		cfg.Arch = arch.Host()
	}
	cfg.Binary = cmp.Or(cfg.Binary, cfg.Arch.QEMU)
	return &Machine{cfg: cfg}
}

// Kind returns the kind in the configuration.
func (m *Machine) Kind() machine.Kind { return m.cfg.Kind }

// Nets returns vhost-user and QEMU's user-mode network (slirp).
func (m *Machine) Nets() []machine.NetKind {
	return []machine.NetKind{machine.VhostUser, machine.UserNet}
}

// ErrNotInstalled means that there is no QEMU for the card's architecture.
var ErrNotInstalled = errors.New("QEMU is not installed")

func (m *Machine) binary() (string, error) {
	path, err := exec.LookPath(m.cfg.Binary)
	if err != nil {
		return "", fmt.Errorf("machine.arch %s: %w (Debian: %s): %w", m.cfg.Arch.Name, ErrNotInstalled, m.cfg.Arch.Package, err)
	}
	return path, nil
}

// Start powers a card up. It returns when QEMU has made all devices and connected to every
// vhost-user socket.
//
// The caller must meet these conditions. The process's main calls sandbox.Main before anything
// else. Spec.Kernel is what the board boots (amd64: an uncompressed vmlinux), with world read
// permission (its directories need none). If the caller is root, Start gives Spec.Initrd and the
// sockets of Spec.Nets and Spec.Disks to the card's user with chown where their mode keeps that
// user out. A vhost-user socket must stay the same file
// for the card's life: QEMU reconnects when its connection breaks, but the cell has the file and
// not its directory. Spec.Dir is not used.
func (m *Machine) Start(ctx context.Context, spec machine.Spec) (machine.Instance, error) {
	if spec.Console == nil {
		return nil, fmt.Errorf("card %s: Spec.Console is nil, want the machine's end of a stream socket", spec.Name)
	}
	defer spec.Console.Close()
	if err := m.check(spec); err != nil {
		return nil, fmt.Errorf("card %s: %w", spec.Name, err)
	}
	path, err := m.binary()
	if err != nil {
		return nil, err
	}
	known, err := m.look(ctx, path, len(spec.Disks) > 0 || slices.ContainsFunc(spec.Nets, machine.Net.IsVhostUser))
	if err != nil {
		return nil, err
	}
	if err := m.admit(spec); err != nil {
		return nil, fmt.Errorf("card %s: %w", spec.Name, err)
	}
	return m.launch(ctx, known, spec)
}

// check rejects specs for which QEMU's stderr would not name the fault.
func (m *Machine) check(spec machine.Spec) error {
	if a := m.cfg.Arch; spec.Memory > a.MaxMemory || spec.CPUs > a.MaxCPUs {
		return fmt.Errorf("%d CPUs and %d MiB of memory; the board of %s takes %d and %d MiB at most",
			spec.CPUs, spec.Memory>>20, a.Name, a.MaxCPUs, a.MaxMemory>>20)
	}
	if spec.Memory < 32<<20 || spec.Memory%(1<<20) != 0 {
		return fmt.Errorf("%d bytes of memory, want a multiple of 1 MiB and at least 32 MiB", spec.Memory)
	}
	for _, f := range []struct{ what, path string }{{"kernel", spec.Kernel}, {"initrd", spec.Initrd}} {
		if f.path == "" && f.what != "kernel" {
			continue
		}
		if _, err := os.Stat(f.path); err != nil {
			return fmt.Errorf("%s: %w", f.what, err)
		}
	}
	if err := machine.CheckNets(m, spec.Nets); err != nil {
		return err
	}
	return machine.CheckDisks(spec.Disks)
}

func (m *Machine) admit(spec machine.Spec) error {
	if spec.Initrd != "" {
		if err := sandbox.Admit(spec.Initrd, m.cfg.UID, m.cfg.GID, false); err != nil {
			return err
		}
	}
	for _, n := range spec.Nets {
		if !n.IsVhostUser() {
			continue
		}
		if err := sandbox.Admit(n.Socket, m.cfg.UID, m.cfg.GID, true); err != nil {
			return fmt.Errorf("network device %s: %w", n.Name, err)
		}
	}
	for _, d := range spec.Disks {
		if err := sandbox.Admit(d.Socket, m.cfg.UID, m.cfg.GID, true); err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	return nil
}
