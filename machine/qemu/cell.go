package qemu

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/machine"
)

// system lists the directories of the host that a dynamically linked QEMU needs. Of /etc the cell
// has only the files that the loader and the resolver read.
var system = []string{"/usr", "/lib", "/lib64", "/lib32", "/bin"}

// baseCell holds a QEMU and its libraries.
func (m *Machine) baseCell(binary string) (sandbox.Cell, error) {
	real, err := filepath.EvalSymlinks(binary)
	if err != nil {
		return sandbox.Cell{}, err
	}
	c := sandbox.Cell{
		Path: real, UID: m.cfg.UID, GID: m.cfg.GID,
		Env:       []string{"PATH=/usr/bin:/bin", "HOME=/", "LANG=C.UTF-8"},
		Links:     map[string]string{},
		OpenFiles: 4096,
		Processes: 1024, // all of them threads: for the CPUs, for the disk and a few others
		Binds: []sandbox.Bind{
			{Source: "/dev/null", Target: "/dev/null", Device: true, Write: true},
			{Source: "/dev/urandom", Target: "/dev/urandom", Device: true, Write: true},
			{Source: "/etc/ld.so.cache", Target: "/etc/ld.so.cache", Optional: true},
		},
	}
	for _, dir := range system {
		// On a merged-/usr system the others are links into /usr.
		if to, err := os.Readlink(dir); err == nil {
			c.Links[dir] = to
		} else if _, err := os.Stat(dir); err == nil {
			c.Binds = append(c.Binds, sandbox.Bind{Source: dir, Target: dir})
		}
	}
	if !strings.HasPrefix(real, "/usr/") {
		dir := filepath.Dir(real)
		c.Binds = append(c.Binds, sandbox.Bind{Source: dir, Target: dir})
	}
	if m.cfg.Kind == machine.KVM {
		c.Binds = append(c.Binds, sandbox.Bind{Source: "/dev/kvm", Target: "/dev/kvm", Device: true, Write: true})
	}
	return c, nil
}

// cardCell returns baseCell with a card's own files.
func (m *Machine) cardCell(known features, spec machine.Spec) (sandbox.Cell, error) {
	c, err := m.baseCell(known.path)
	if err != nil {
		return c, err
	}
	c.Argv = m.arguments(known, spec)
	c.Binds = append(c.Binds, sandbox.Bind{Source: spec.Kernel, Target: cellKernel})
	if spec.Initrd != "" {
		c.Binds = append(c.Binds, sandbox.Bind{Source: spec.Initrd, Target: cellInitrd})
	}
	for i, n := range spec.Nets {
		if n.IsVhostUser() {
			c.Binds = append(c.Binds, sandbox.Bind{Source: n.Socket, Target: cellSocket(i), Write: true})
			continue
		}
		c.HostNetwork = true
	}
	for i, d := range spec.Disks {
		c.Binds = append(c.Binds, sandbox.Bind{Source: d.Socket, Target: cellDisk(i), Write: true})
	}
	if c.HostNetwork {
		// QEMU's user-mode network sends the card's DNS queries to the host's servers.
		c.Binds = append(c.Binds, sandbox.Bind{Source: "/etc/resolv.conf", Target: "/etc/resolv.conf", Optional: true})
	}
	return c, nil
}
