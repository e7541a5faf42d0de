package flash

import (
	"fmt"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

const (
	sector = 512     // bytes
	align  = 1 << 20 // bytes; partitions begin and end at multiples

	envSize  = 1 << 20  // bytes
	bootSize = 96 << 20 // bytes; a kernel with its initramfs has 40 to 70 MiB
)

// Bounds of a flash, in bytes.
const (
	MinSize = 1 << 30
	MaxSize = 1 << 40
)

// Sizes are those of the partitions that differ between flashes, in bytes, each a multiple of 1 MiB.
type Sizes struct {
	Boot int64 // of boot-a and boot-b
	Root int64 // of rootfs-a and rootfs-b
	Data int64
}

// SizesOf divides a flash of total bytes: three tenths for each root file system, the rest for data.
func SizesOf(total int64) (Sizes, error) {
	if total < MinSize || total > MaxSize {
		return Sizes{}, fmt.Errorf("flash of %d bytes: want %d to %d", total, int64(MinSize), int64(MaxSize))
	}
	total = down(total)
	root := down(total * 3 / 10)
	return Sizes{Boot: bootSize, Root: root, Data: total - 2*align - envSize - 2*bootSize - 2*root}, nil
}

func down(n int64) int64 { return n / align * align }

// Total returns the size of the whole flash in bytes.
func (s Sizes) Total() int64 {
	return 2*align + envSize + 2*s.Boot + 2*s.Root + s.Data // the tables of the GPT are in the first and last MiB
}

func (s Sizes) check() error {
	for name, n := range map[string]int64{"boot": s.Boot, "rootfs": s.Root, "data": s.Data} {
		if n < align || n%align != 0 || n > MaxSize {
			return fmt.Errorf("partition %s of %d bytes: want a multiple of %d, at most %d", name, n, int64(align), int64(MaxSize))
		}
	}
	return nil
}

// Types of the partitions. That of env is U-Boot's own; that of boot-a and boot-b means an image
// file of this project, without a file system.
const (
	typeEnv  gpt.Type = "3DE21764-95BD-54BD-A5C3-4ABE786F38A8"
	typeBoot gpt.Type = "7E0B6F5A-52C5-4F0A-9C1D-4D1B0F6F4A21"
	typeFS   gpt.Type = gpt.LinuxFilesystem
)

type row struct {
	name string
	kind gpt.Type
	size int64 // bytes
}

// rows lists the partitions in the order of the disk. The order never changes: a card finds them by
// name, and a person by position.
func (s Sizes) rows() []row {
	return []row{
		{EnvName, typeEnv, envSize},
		{A.Boot(), typeBoot, s.Boot}, {A.Root(), typeFS, s.Root},
		{B.Boot(), typeBoot, s.Boot}, {B.Root(), typeFS, s.Root},
		{DataName, typeFS, s.Data},
	}
}
