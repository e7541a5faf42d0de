// Package uml runs a card as User-Mode Linux: the Linux kernel compiled as an ordinary program. It
// runs at native speed and needs neither KVM nor privilege, but a compromised card kernel is code
// that runs as a user of the host. So it runs in a cell (internal/sandbox): a separate user if the
// caller is root, no files but its kernel, its initramfs and its vhost-user sockets, no network, no
// other process visible, and a seccomp filter. Its RAM is a file on a tmpfs that ends with it.
//
// Measured on 2 virtual CPUs with Linux 6.18, User-Mode Linux 7.2 trimmed (allnoconfig), a static
// Go program as /init and no network device. From the call of Start the cell is ready and the
// kernel executed after 6 ms, and that program has printed its first line after 0.10 to 0.13 s
// (TestStartTime). Twenty cards at once were up after 0.7 to 0.8 s, and all of them together used
// 30 ms of CPU in 3 s when idle (TestTwenty).
package uml

import (
	"context"
	"fmt"
	"os"

	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/machine"
)

// Config names the kernel and its user.
type Config struct {
	// Kernel is the linux binary that Probe tries. Start uses Spec.Kernel.
	Kernel string
	// UID and GID are for a root caller; 0 means the user nobody.
	UID, GID int
}

// Machine is User-Mode Linux on this host.
type Machine struct{ cfg Config }

// New makes the machine. It reads nothing of the host; Probe and Start do.
func New(cfg Config) *Machine { return &Machine{cfg: cfg} }

// Kind returns machine.UML.
func (m *Machine) Kind() machine.Kind { return machine.UML }

// Nets returns only vhost-user: User-Mode Linux has no user-mode network.
func (m *Machine) Nets() []machine.NetKind { return []machine.NetKind{machine.VhostUser} }

// Start powers a card up.
//
// The caller must meet these conditions. The process's main calls sandbox.Main before anything
// else. Spec.Kernel has world read permission (its directories need none). If the caller is root,
// Start gives Spec.Initrd and the sockets of Spec.Nets and Spec.Disks to the card's user with chown where their
// mode keeps that user out, so a file whose owner matters must not be passed. Spec.Dir is not used:
// everything the card writes stays in its cell's memory.
func (m *Machine) Start(ctx context.Context, spec machine.Spec) (machine.Instance, error) {
	if spec.Console == nil {
		return nil, fmt.Errorf("card %s: Spec.Console is nil, want the machine's end of a stream socket", spec.Name)
	}
	defer spec.Console.Close()
	if err := m.check(spec); err != nil {
		return nil, err
	}
	if err := m.admit(spec); err != nil {
		return nil, fmt.Errorf("card %s: %w", spec.Name, err)
	}
	return m.launch(ctx, spec)
}

// check rejects specs that would otherwise show only as a dead card.
func (m *Machine) check(spec machine.Spec) error {
	if spec.Memory < 32<<20 {
		return fmt.Errorf("card %s: %d bytes of memory, want at least 32 MiB", spec.Name, spec.Memory)
	}
	if err := machine.CheckNets(m, spec.Nets); err != nil {
		return fmt.Errorf("card %s: %w", spec.Name, err)
	}
	if err := machine.CheckDisks(spec.Disks); err != nil {
		return fmt.Errorf("card %s: %w", spec.Name, err)
	}
	st, err := os.Stat(spec.Kernel)
	if err != nil {
		return fmt.Errorf("card %s, kernel: %w", spec.Name, err)
	}
	if st.Mode().Perm()&0o111 == 0 {
		return fmt.Errorf("card %s: kernel %s has mode %v, want an executable program", spec.Name, spec.Kernel, st.Mode())
	}
	return nil
}

func (m *Machine) admit(spec machine.Spec) error {
	if spec.Initrd != "" {
		if err := holdLastPage(spec.Initrd); err != nil {
			return fmt.Errorf("initrd: %w", err)
		}
		if err := sandbox.Admit(spec.Initrd, m.cfg.UID, m.cfg.GID, false); err != nil {
			return fmt.Errorf("initrd: %w", err)
		}
	}
	for _, n := range spec.Nets {
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
