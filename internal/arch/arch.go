// Package arch is the table of the architectures that a card may have: one row each. What differs
// between architectures is a field of the row, and stands nowhere else.
package arch

import (
	"debug/elf"
	"fmt"
	"runtime"

	"github.com/toe-project/toe/internal/suggest"
)

// Arch is one architecture of cards.
type Arch struct {
	Name string // Debian's, in card.yaml and in images

	// The agent: how Go compiles it, and what its file is.
	Go    string   // GOARCH
	Env   []string // more variables for the compiler, NAME=VALUE
	ELF   elf.Machine
	Class elf.Class
	Order elf.Data // byte order

	// The firmware. Releases are those of Debian that have the architecture, the newest first.
	Releases []string
	Kernel   string // metapackage of the kernel
	Image    string // the kernel's file in /boot, without -RELEASE
	BzImage  bool   // Image is a bzImage of which QEMU boots the vmlinux

	// The machine.
	QEMU      string // program
	Package   string // of Debian, with the program
	Board     string // QEMU's -machine, with options
	CPU       string // QEMU's -cpu under TCG
	KVM       string // more options of Board under KVM
	Console   string // the kernel's console=
	Bus       Bus
	Extra     []string // more arguments for QEMU
	Probe     bool     // machine/qemu has programs for the board that try a QEMU out
	MaxMemory int64    // bytes that the board takes and the kernel uses
	MaxCPUs   int      // that the board takes
	// OneThread has QEMU's translator run the CPU and its timers in one thread. In two, both set the
	// timer of MIPS without a lock (target/mips/sysemu/cp0_timer.c in 7.2). Now and then one that the
	// CPU has set is lost, and the card stands still until the counter wraps, 27 s later.
	OneThread bool
}

// Bus is how a board has its virtio devices. It is a part of the names of QEMU's devices.
type Bus string

const (
	PCI  Bus = "pci"
	CCW  Bus = "ccw"    // channels of s390x
	MMIO Bus = "device" // registers in memory; the board finds them by its device tree
)

const (
	mib int64 = 1 << 20
	gib int64 = 1 << 30
)

// Debian's releases that cards are made of.
const (
	trixie   = "trixie"   // 13
	bookworm = "bookworm" // 12, the last with MIPS
)

// All lists the architectures. The first is the default on a host that has no row.
//
// Boards are the ones that Debian's kernel supports without a device tree file. A board's CPU is
// the oldest that Debian supports and Go compiles for: the translator does least for it. The
// memory is that of the board (QEMU: hw/*/), or less where the kernel maps less of it.
var All = []Arch{
	{
		Name: "amd64", Go: "amd64", ELF: elf.EM_X86_64, Class: elf.ELFCLASS64, Order: elf.ELFDATA2LSB,
		Releases: []string{trixie}, Kernel: "linux-image-cloud-amd64", Image: "vmlinuz", BzImage: true,
		QEMU: "qemu-system-x86_64", Package: "qemu-system-x86",
		Board: "pc,hpet=off,usb=off,i8042=off,vmport=off", CPU: "max", Console: "ttyS0", Bus: PCI, Probe: true,
		MaxMemory: 1024 * gib, MaxCPUs: 64,
	},
	{
		Name: "arm64", Go: "arm64", ELF: elf.EM_AARCH64, Class: elf.ELFCLASS64, Order: elf.ELFDATA2LSB,
		Releases: []string{trixie, bookworm}, Kernel: "linux-image-cloud-arm64", Image: "vmlinuz",
		QEMU: "qemu-system-aarch64", Package: "qemu-system-arm",
		Board: "virt,gic-version=3", CPU: "cortex-a57", KVM: ",gic-version=host",
		Console: "ttyAMA0", Bus: PCI, MaxMemory: 255 * gib, MaxCPUs: 64,
	},
	{
		Name: "armhf", Go: "arm", Env: []string{"GOARM=7"}, ELF: elf.EM_ARM, Class: elf.ELFCLASS32, Order: elf.ELFDATA2LSB,
		Releases: []string{trixie, bookworm}, Kernel: "linux-image-armmp", Image: "vmlinuz",
		QEMU: "qemu-system-arm", Package: "qemu-system-arm",
		Board: "virt,highmem=off", CPU: "cortex-a15",
		Console: "ttyAMA0", Bus: PCI, MaxMemory: 3 * gib, MaxCPUs: 8,
	},
	{
		Name: "riscv64", Go: "riscv64", ELF: elf.EM_RISCV, Class: elf.ELFCLASS64, Order: elf.ELFDATA2LSB,
		Releases: []string{trixie}, Kernel: "linux-image-riscv64", Image: "vmlinux",
		QEMU: "qemu-system-riscv64", Package: "qemu-system-misc",
		Board: "virt", CPU: "rv64",
		Console: "ttyS0", Bus: PCI, MaxMemory: 128 * gib, MaxCPUs: 64,
	},
	{
		Name: "ppc64el", Go: "ppc64le", ELF: elf.EM_PPC64, Class: elf.ELFCLASS64, Order: elf.ELFDATA2LSB,
		Releases: []string{trixie, bookworm}, Kernel: "linux-image-powerpc64le", Image: "vmlinux",
		QEMU: "qemu-system-ppc64", Package: "qemu-system-ppc",
		Board: "pseries,cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off", CPU: "power8",
		Console: "hvc0", Bus: PCI, MaxMemory: 1024 * gib, MaxCPUs: 64,
	},
	{
		Name: "s390x", Go: "s390x", ELF: elf.EM_S390, Class: elf.ELFCLASS64, Order: elf.ELFDATA2MSB,
		Releases: []string{trixie, bookworm}, Kernel: "linux-image-s390x", Image: "vmlinuz",
		QEMU: "qemu-system-s390x", Package: "qemu-system-s390x",
		Board: "s390-ccw-virtio", CPU: "max",
		Console: "ttysclp0", Bus: CCW, MaxMemory: 1024 * gib, MaxCPUs: 64,
	},
	{
		Name: "mipsel", Go: "mipsle", ELF: elf.EM_MIPS, Class: elf.ELFCLASS32, Order: elf.ELFDATA2LSB,
		Releases: []string{bookworm}, Kernel: "linux-image-4kc-malta", Image: "vmlinuz",
		QEMU: "qemu-system-mipsel", Package: "qemu-system-mips",
		Board: "malta", CPU: "24Kf", OneThread: true,
		Console: "ttyS0", Bus: PCI, MaxMemory: 2 * gib, MaxCPUs: 1,
	},
	{
		Name: "mips64el", Go: "mips64le", ELF: elf.EM_MIPS, Class: elf.ELFCLASS64, Order: elf.ELFDATA2LSB,
		Releases: []string{bookworm}, Kernel: "linux-image-5kc-malta", Image: "vmlinuz",
		QEMU: "qemu-system-mips64el", Package: "qemu-system-mips",
		Board: "malta", CPU: "5KEc", OneThread: true,
		Console: "ttyS0", Bus: PCI, MaxMemory: 2 * gib, MaxCPUs: 1,
	},
}

// NoMMU is the board of the nano edition: riscv64 whose CPU has no MMU. Its kernel is the firmware and
// runs in machine mode. Linux has no PCI without an MMU (drivers/pci/Kconfig).
var NoMMU = Arch{
	Name: "riscv64", ELF: elf.EM_RISCV, Class: elf.ELFCLASS64, Order: elf.ELFDATA2LSB,
	QEMU: "qemu-system-riscv64", Package: "qemu-system-misc",
	Board: "virt", CPU: "rv64,mmu=off", Console: "ttyS0", Bus: MMIO,
	Extra:     []string{"-bios", "none", "-global", "virtio-mmio.force-legacy=false"},
	MaxMemory: 2 * gib, MaxCPUs: 1,
}

// Names lists the architectures' names in the order of All.
func Names() []string {
	var names []string
	for _, a := range All {
		names = append(names, a.Name)
	}
	return names
}

// Find returns the row of a name. Its error suggests a name for a mistyped one, and for one of Go,
// the kernel or QEMU.
func Find(name string) (Arch, error) {
	for _, a := range All {
		if a.Name == name {
			return a, nil
		}
	}
	return Arch{}, fmt.Errorf("architecture %q: want one of %v%s", name, Names(), Suggest(name))
}

// Suggest is the end of an error about an unknown name, or "".
func Suggest(name string) string {
	if known, ok := alias[name]; ok {
		return fmt.Sprintf("; did you mean %q?", known)
	}
	return suggest.DidYouMean(name, Names()...)
}

// alias has the names that others give the architectures.
var alias = map[string]string{
	"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "arm": "armhf", "armv7": "armhf", "armv7l": "armhf",
	"riscv": "riscv64", "ppc64le": "ppc64el", "powerpc64le": "ppc64el", "s390": "s390x", "mips": "mipsel",
	"mipsle": "mipsel", "mips64": "mips64el", "mips64le": "mips64el",
}

// Host returns the architecture of this program, or the first of All if that has no row.
func Host() Arch {
	for _, a := range All {
		if a.Go == runtime.GOARCH {
			return a
		}
	}
	return All[0]
}

// IsHost reports whether the host's CPU runs programs of the architecture.
func (a Arch) IsHost() bool { return a.Go == runtime.GOARCH }

// CheckELF returns why a file is not a program of the architecture.
func (a Arch) CheckELF(f *elf.File) error {
	if f.Machine != a.ELF || f.Class != a.Class || f.Data != a.Order {
		return fmt.Errorf("is for %v, %v, %v; want %v, %v, %v", f.Machine, f.Class, f.Data, a.ELF, a.Class, a.Order)
	}
	return nil
}
