// Package firmware builds, caches and verifies images: a kernel and an initramfs with the agent as
// PID 1, in one file with a manifest.
//
// Everything but the agent comes from a Debian mirror through a private apt root (internal/apt),
// which verifies it before it is unpacked. An image holds nothing specific to one card. A card's
// configuration is a second cpio archive, which Overlay appends at each start.
//
// An image is a plain tar. The same packages give the same bytes. Each image has a copy of the
// agent: a newer agent on the host changes no image, and toe status reports the difference.
//
//	manifest.json    versions, packages, and the members: name, size and SHA-256, in order
//	kernel           vmlinux (qemu) or the linux program (uml)
//	initramfs        newc cpio, not compressed
//	root.ext4.zst    edition debian: the root file system, compressed
//	sbom.spdx.json   edition debian: its packages, SPDX 2.3
//
// The cache directory holds
//
//	apt/                       the private apt roots and the packages fetched
//	debian/                    root file systems of Debian's packages only
//	uml/                       User-Mode Linux kernels, by version and configuration
//	firmware/*.tar             images
//	firmware/current-*         links to the image that Find returns
//	firmware/files/SHA256/     the kernel and initramfs of an image, unpacked
package firmware

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/machine"
)

// Edition is the kind of system in an image.
type Edition string

// Micro is the kernel, the agent as PID 1 and busybox.
const Micro Edition = "micro"

// Target is what an image is built for. Several kinds of machine share one.
type Target string

const (
	QEMU Target = "qemu" // kinds kvm and tcg: Debian's cloud kernel
	UML  Target = "uml"  // kind uml: Linux built as a program
)

// TargetOf returns the target that a kind of machine boots.
func TargetOf(kind machine.Kind) (Target, error) {
	switch kind {
	case machine.KVM, machine.TCG:
		return QEMU, nil
	case machine.UML:
		return UML, nil
	}
	return "", fmt.Errorf("machine kind %q has no firmware, want kvm, tcg or uml", kind)
}

func (t Target) kinds() []machine.Kind {
	if t == UML {
		return []machine.Kind{machine.UML}
	}
	return []machine.Kind{machine.KVM, machine.TCG}
}

// ErrNotBuilt means that the cache has no image of that edition, machine and architecture. Build
// makes it.
var ErrNotBuilt = errors.New("firmware is not built")

// ErrInvalid means that the file is not an image, is damaged, or has a format that this version
// does not read. Nothing of it was used. Build or fetch it again.
var ErrInvalid = errors.New("not a valid firmware image")

// Options describes what to build.
type Options struct {
	Edition  Edition // default Micro
	Target   Target  // default QEMU
	Arch     string  // Debian's name; default that of the host
	CacheDir string
	// AgentPath is the static toe-agent program; default: toe-agent in the directory of the
	// running program, or toe-agent-ARCH for another architecture than the host's. If that is
	// missing or of another version than Version, and the program stands in a source tree, Build
	// compiles it.
	AgentPath string
	Version   string // of the running program
	Kernel    string // uml: X.Y of the linux-source to take; default the newest
	Mirror    string // URL of a Debian mirror; default the host's own
	// Update asks the mirror for newer packages. Without it the packages in the cache are used, and
	// the mirror is asked only for missing ones.
	Update bool
	// Packages are Debian packages to install in addition; edition debian only.
	Packages []string
	// Disabled are units of those that do not start with the card: the agent starts those of services.
	Disabled []string
	// Keyring has the certificates whose bundles a card installs, in PEM; edition debian only. With
	// none a card installs no bundle, until its admin gives it a keyring.
	Keyring []byte
	// Debs is a folder for the packages of our own, for a repository; empty for none. Edition debian only.
	Debs     string
	Progress *progress.Progress // nil reports nothing

	keyring string // of a test's own archive
}

// normal fills in the defaults and rejects what cannot be built.
func (o Options) normal() (Options, error) {
	if o.Edition == "" {
		o.Edition = Micro
	}
	if o.Target == "" {
		o.Target = QEMU
	}
	if o.Arch == "" && o.Edition == Nano {
		o.Arch = arch.NoMMU.Name
	}
	if o.Arch == "" {
		o.Arch = arch.Host().Name
	}
	if _, err := arch.Find(o.Arch); err != nil {
		return o, fmt.Errorf("firmware: %w", err)
	}
	switch {
	case !slices.Contains(Editions, o.Edition):
		return o, fmt.Errorf("firmware edition %q: want one of %q", o.Edition, Editions)
	case len(o.Packages) > 0 && o.Edition != Debian:
		return o, fmt.Errorf("package %s: only edition %s has packages of its own", o.Packages[0], Debian)
	case o.Target != QEMU && o.Target != UML:
		return o, fmt.Errorf("firmware machine %q: want %q or %q", o.Target, QEMU, UML)
	case o.Target == UML && !o.row().IsHost():
		return o, fmt.Errorf("firmware for machine uml and architecture %s: User-Mode Linux runs only on the host's, %s; want machine qemu",
			o.Arch, arch.Host().Name)
	case o.Edition == Debian && !o.row().IsHost():
		return o, fmt.Errorf("firmware edition %s and architecture %s: its packages are configured by running them, which works only for the host's, %s; want edition %s",
			Debian, o.Arch, arch.Host().Name, Micro)
	case o.Edition == Nano && (o.Arch != arch.NoMMU.Name || o.Target != QEMU):
		return o, fmt.Errorf("firmware edition %s for machine %s and architecture %s: want machine %s and architecture %s",
			Nano, o.Target, o.Arch, QEMU, arch.NoMMU.Name)
	case o.Kernel != "" && o.Target != UML && o.Edition != Nano:
		return o, fmt.Errorf("kernel %s: only machine uml has a choice of kernels; qemu takes Debian's", o.Kernel)
	case !filepath.IsAbs(o.CacheDir):
		return o, fmt.Errorf("cache directory %q: want an absolute path", o.CacheDir)
	}
	if err := checkPackages(o.Packages); err != nil {
		return o, err
	}
	if o.AgentPath == "" && o.Edition != Nano {
		var err error
		if o.AgentPath, err = agentPath(o.row()); err != nil {
			return o, err
		}
	}
	return o, nil
}

// row returns what is known of the architecture, which normal has checked.
func (o Options) row() arch.Arch {
	a, _ := arch.Find(o.Arch)
	return a
}
