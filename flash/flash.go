// Package flash is a card's disk by the conventions of embedded Linux, and the rules by which a
// boot ROM uses it. It runs no process and touches no file but the one that it is given.
//
// A flash is one GPT image. Its partitions are known by their names:
//
//	env        two copies of a U-Boot environment (env.go)
//	boot-a     an image file with the kernel and the initramfs of slot A
//	rootfs-a   the root file system of slot A, ext4
//	boot-b     the same for slot B
//	rootfs-b
//	data       what survives every update, ext4
//
// The card writes all of it, so what is read here is untrusted.
package flash

// Slot is one of the two systems on a flash, as RAUC's bootname and BOOT_ORDER spell it. The empty
// Slot is none of them.
type Slot string

// The slots of a flash.
const (
	A Slot = "A"
	B Slot = "B"
)

// Slots lists the slots in the order of a flash without an environment.
var Slots = []Slot{A, B}

// Other returns the slot beside s.
func (s Slot) Other() Slot {
	if s == A {
		return B
	}
	return A
}

// Boot returns the name of the partition with the slot's image file.
func (s Slot) Boot() string { return "boot-" + s.suffix() }

// Root returns the name of the partition with the slot's root file system.
func (s Slot) Root() string { return "rootfs-" + s.suffix() }

func (s Slot) suffix() string {
	if s == A {
		return "a"
	}
	return "b"
}

// Names of the partitions that belong to no slot.
const (
	EnvName  = "env"
	DataName = "data"
)
