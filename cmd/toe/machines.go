package main

import (
	"context"
	"os/exec"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/qemu"
	"github.com/toe-project/toe/machine/uml"
)

// machines are the kinds that this host may have, best first, as a card of that
// name runs them: with a user of its own where that can be. Without a name they
// are for trying out only.
func machines(cache, name string) machine.Kinds {
	umlKernel := kernelOf(cache, machine.UML)
	user := 0
	if name != "" {
		user = sandbox.OwnUser(name)
	}
	return machine.Kinds{
		Machines: []machine.Machine{
			qemu.New(qemu.Config{Kind: machine.KVM, UID: user, GID: user}),
			uml.New(uml.Config{Kernel: umlKernel, UID: user, GID: user}),
			qemu.New(qemu.Config{Kind: machine.TCG, UID: user, GID: user}),
		},
		Cache: cache,
		Depends: func(kind machine.Kind) []string {
			if kind == machine.UML {
				return []string{umlKernel}
			}
			program, err := exec.LookPath(qemu.DefaultBinary)
			if err != nil {
				program = qemu.DefaultBinary
			}
			return []string{program, "/dev/kvm"}
		},
	}
}

// kernelOf returns the path of the kernel in the cache for a kind of machine, or "". It is for a
// probe, which takes less time than the builds that would remove it.
func kernelOf(cache string, kind machine.Kind) string {
	img, err := firmware.Find(cache, firmware.Micro, kind, firmware.HostArch())
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
