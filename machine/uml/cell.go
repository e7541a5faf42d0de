package uml

import (
	"fmt"
	"os"
	"strings"

	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/machine"
)

// Paths inside the cell.
const (
	cellInitrd = "/initrd"
	cellNoDisk = "/nodisk"
	cellMemory = "/mem"
)

// memorySlack is the size of the memory's tmpfs beyond the RAM, in bytes: the kernel rounds the
// size up and keeps a few files of its own there.
const memorySlack = 16 << 20

// kernelPath returns the path of the kernel. ps shows its name, at most 15 bytes of it.
func kernelPath(card string) string { return "/toe: " + card }

// argument0 names the card for ps. At a reboot the kernel executes the program of this name in
// /bin: elsewhere that is the kernel itself, in the cell it is rebootProgram.
func argument0(card string) string { return "toe-card-" + card }

func cellSocket(i int) string { return fmt.Sprintf("/net%d", i) }

func cellDisk(i int) string { return fmt.Sprintf("/disk%d", i) }

// cell returns everything of the host that the kernel can see.
func (m *Machine) cell(spec machine.Spec) sandbox.Cell {
	c := sandbox.Cell{
		Path: kernelPath(spec.Name),
		Argv: arguments(spec),
		// The kernel puts the RAM file into TMPDIR and its control files into HOME.
		Env:            []string{"TMPDIR=" + cellMemory, "HOME=" + cellMemory},
		UID:            m.cfg.UID,
		GID:            m.cfg.GID,
		Binds:          []sandbox.Bind{{Source: spec.Kernel, Target: kernelPath(spec.Name)}},
		Scratch:        []sandbox.Scratch{{Target: cellMemory, Bytes: spec.Memory + memorySlack}},
		Files:          map[string][]byte{},
		Programs:       map[string][]byte{"/bin/" + argument0(spec.Name): rebootProgram()},
		Filter:         sandbox.UMLFilter,
		FixedAddresses: true,
		// With more CPUs the kernel's processes run at the same time.
		OneCPU: spec.CPUs <= 1,
		// At times one descriptor for each process on the card, and some for devices.
		OpenFiles: 4096,
		// The card's kernel has a host process for each of its own. It limits them to one for every
		// 128 KiB of its memory (its threads-max).
		Processes: uint64(spec.Memory>>17) + 256,
		// The kernel was seen with 10 MiB of data. Its processes have none, because all the card's
		// memory is in the file.
		Data: 256 << 20,
	}
	// The kernel reads the CPU's features from this file. A copy is enough.
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		c.Files["/proc/cpuinfo"] = firstCPU(info)
	}
	if spec.Initrd != "" {
		c.Binds = append(c.Binds, sandbox.Bind{Source: spec.Initrd, Target: cellInitrd})
	}
	c.Files[cellNoDisk] = make([]byte, 512)
	for i, n := range spec.Nets {
		c.Binds = append(c.Binds, sandbox.Bind{Source: n.Socket, Target: cellSocket(i), Write: true})
	}
	for i, d := range spec.Disks {
		c.Binds = append(c.Binds, sandbox.Bind{Source: d.Socket, Target: cellDisk(i), Write: true})
	}
	return c
}

// firstCPU returns the first of the equal blocks: on a large host the file would not fit into the
// helper's argument.
func firstCPU(info []byte) []byte {
	first, _, _ := strings.Cut(string(info), "\n\n")
	return []byte(first + "\n\n")
}

// arguments returns the kernel's arguments.
func arguments(spec machine.Spec) []string {
	args := []string{
		argument0(spec.Name),
		fmt.Sprintf("mem=%dK", spec.Memory>>10),
		// The kernel controls the card's programs with its own seccomp filter. The alternative,
		// ptrace, is slower and is not allowed in the cell.
		"seccomp=on",
		// The console on stdin and stdout is the only terminal.
		"con=null", "con0=fd:0,fd:1", "ssl=null",
		"quiet", "panic=0",
		// This skips the calibration of the delay loop, 90 ms of every start. In a user process the
		// calibration is a guess in any case.
		"lpj=20000000",
	}
	if spec.CPUs > 1 {
		args = append(args, fmt.Sprintf("ncpus=%d", spec.CPUs))
	}
	if spec.Initrd != "" {
		args = append(args, "initrd="+cellInitrd)
	}
	// The driver complains on the console without a disk. It gets one sector, read-only.
	args = append(args, "ubd0r="+cellNoDisk)
	for i := range spec.Nets {
		// 1 is VIRTIO_ID_NET (virtio 1.2, section 5).
		args = append(args, fmt.Sprintf("virtio_uml.device=%s:1", cellSocket(i)))
	}
	for i := range spec.Disks {
		// 2 is VIRTIO_ID_BLOCK.
		args = append(args, fmt.Sprintf("virtio_uml.device=%s:2", cellDisk(i)))
	}
	return append(args, strings.Fields(spec.Cmdline)...)
}
