package main

import (
	"context"
	"os/exec"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/qemu"
	"github.com/toe-project/toe/machine/uml"
)

// machines are the kinds that this host may have for cards of an architecture, best first, as a
// card of that name runs them: with a user of its own where that can be. Without a name they are
// for trying out only. Only the translator runs another architecture than the host's.
func machines(cache, name string, a arch.Arch) machine.Kinds {
	umlKernel := kernelOf(cache, machine.UML)
	user := 0
	if name != "" {
		user = sandbox.OwnUser(name)
	}
	tcg := qemu.New(qemu.Config{Kind: machine.TCG, Arch: a, UID: user, GID: user})
	kinds := machine.Kinds{
		Machines: []machine.Machine{
			qemu.New(qemu.Config{Kind: machine.KVM, Arch: a, UID: user, GID: user}),
			uml.New(uml.Config{Kernel: umlKernel, UID: user, GID: user}),
			tcg,
		},
		Cache: cache,
		Depends: func(kind machine.Kind) []string {
			if kind == machine.UML {
				return []string{umlKernel}
			}
			program, err := exec.LookPath(a.QEMU)
			if err != nil {
				program = a.QEMU
			}
			return []string{program, "/dev/kvm"}
		},
	}
	if !a.IsHost() {
		kinds.Machines, kinds.For = []machine.Machine{tcg}, a.Name
	}
	return kinds
}

// kernelOf returns the path of the kernel in the cache for a kind of machine, or "". It is for a
// probe, which takes less time than the builds that would remove it.
func kernelOf(cache string, kind machine.Kind) string {
	img, err := firmware.Find(cache, firmware.Micro, kind, arch.Host().Name)
	if err != nil {
		return ""
	}
	files, err := img.Files(context.Background())
	if err != nil {
		return ""
	}
	defer files.Close()
	return files.Kernel
}
