package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/hostnet/passt"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/privilege"
	"github.com/toe-project/toe/machine"
)

func (h Host) kind(k machine.Kind) machine.Machine {
	for _, m := range h.Machines {
		if m.Kind() == k {
			return m
		}
	}
	return nil
}

// checkKVM runs a guest: a device that opens proves nothing.
func checkKVM(ctx context.Context, h Host) Result {
	const device = "/dev/kvm"
	if _, err := os.Stat(device); errors.Is(err, fs.ErrNotExist) {
		return Result{State: Skip, Detail: "this host has no " + device}
	}
	if err := unix.Access(device, unix.R_OK|unix.W_OK); err != nil {
		return Result{
			State: Warn, Detail: fmt.Sprintf("%s: %v", device, err),
			Fix: "sudo adduser $USER kvm   # then log in again",
		}
	}
	m := h.kind(machine.KVM)
	if m == nil {
		return Result{State: Skip, Detail: "not in this build"}
	}
	how, err := m.Probe(ctx)
	if err != nil {
		return withoutPrivilege(err, Result{
			State: Warn, Detail: err.Error(), Fix: "nothing is needed, cards take another machine; " +
				"to have this one, enable virtualization in the firmware setup",
		})
	}
	return Result{State: Pass, Detail: how}
}

func checkUML(ctx context.Context, h Host) Result {
	if _, err := firmware.Find(h.Dirs.Cache, firmware.Micro, machine.UML, arch.Host().Name); err != nil {
		return Result{
			State: Warn, Detail: "the User-Mode Linux kernel is not built",
			Fix: "toe firmware build --machine uml   # minutes, once",
		}
	}
	m := h.kind(machine.UML)
	if m == nil {
		return Result{State: Skip, Detail: "not in this build"}
	}
	how, err := m.Probe(ctx)
	if err != nil {
		return withoutPrivilege(err,
			Result{State: Fail, Detail: err.Error(), Fix: "toe firmware build --machine uml"})
	}
	return Result{State: Pass, Detail: how}
}

// withoutPrivilege is r, unless a probe failed because this process lacks a
// privilege: that says nothing of the machine.
func withoutPrivilege(err error, r Result) Result {
	if m := privilege.Of(err); m != nil {
		r.State, r.Detail, r.Fix = Fail, m.Doing+": "+m.Err.Error()+": "+m.Why, m.Fix
	}
	return r
}

const reinstallQEMU = "sudo apt install --reinstall qemu-system-x86"

// checkQEMU looks at the version, and says what is known against it.
func checkQEMU(ctx context.Context, h Host) Result {
	const program = "qemu-system-x86_64"
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if errors.Is(err, exec.ErrNotFound) {
		r := Result{
			State: Fail, Detail: program + " is not installed",
			Fix: "sudo apt install qemu-system-x86",
		}
		if _, err := firmware.Find(h.Dirs.Cache, firmware.Micro, machine.UML, arch.Host().Name); err == nil {
			r.State = Warn // cards run without it
		}
		return r
	}
	if err != nil {
		return Result{
			State: Fail, Detail: fmt.Sprintf("%s --version: %v", program, err),
			Fix: reinstallQEMU,
		}
	}
	version, _, _ := strings.Cut(string(out), "\n")
	version = strings.TrimPrefix(version, "QEMU emulator version ")
	if m := h.kind(machine.TCG); m != nil {
		how, err := m.Probe(ctx)
		if err != nil {
			return withoutPrivilege(err, Result{
				State: Fail, Detail: fmt.Sprintf("%s: %v", version, err), Fix: reinstallQEMU,
			})
		}
		version += "; " + how
	}
	if fault := knownFault(version); fault != "" {
		return Result{State: Pass, Detail: version + "; known: " + fault}
	}
	return Result{State: Pass, Detail: version}
}

// knownFault is what toe works around in a version of QEMU.
func knownFault(version string) string {
	if strings.HasPrefix(version, "7.2") {
		return "without KVM it faults on MSI-X with vhost-user, and is run with vectors=0; no UDP segmentation"
	}
	return ""
}

// checkPasst runs the self-test: a version proves nothing.
func checkPasst(ctx context.Context, h Host) Result {
	p, err := passt.Find(ctx, h.Dirs.Cache)
	const fix = "toe firmware build   # fetches another passt, with the mirror's help"
	switch {
	case err == nil:
		return Result{State: Pass, Detail: p.String() + "; it passes its self-test"}
	case errors.Is(err, passt.ErrMissing):
		return Result{
			State: Warn, Detail: "passt is not installed; a uml card needs it for attach: user, and in QEMU's " +
				"own user network a card reaches services on this host's loopback",
			Fix: fix,
		}
	case errors.Is(err, passt.ErrFaulty):
		return Result{
			State: Warn, Detail: err.Error() + "; cards with attach: user do not start with it",
			Fix: fix,
		}
	}
	return Result{
		State: Warn, Detail: err.Error(),
		Fix: "what the checks of tun and of user namespaces say",
	}
}

func checkFirmware(_ context.Context, h Host) Result {
	var have []string
	for _, kind := range []machine.Kind{machine.UML, machine.TCG} {
		if img, err := firmware.Find(h.Dirs.Cache, firmware.Micro, kind, arch.Host().Name); err == nil {
			have = append(have, fmt.Sprintf("%s %s (Linux %s)", img.Target, img.Version, img.Kernel))
		}
	}
	if len(have) == 0 {
		return Result{
			State: Warn, Fix: "toe firmware build",
			Detail: "none is built yet; the first `toe up` builds it from packages of the mirror",
		}
	}
	return Result{State: Pass, Detail: strings.Join(have, ", ")}
}
