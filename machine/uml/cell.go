package uml

import (
	"fmt"
	"os"
	"strings"

	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/machine"
)

// Where things are inside the cell.
const (
	cellInitrd = "/initrd"
	cellNoDisk = "/nodisk"
	cellMemory = "/mem"
)

// memorySlack is what the memory's tmpfs may hold beyond the RAM: the kernel
// rounds, and keeps its own few files beside it.
const memorySlack = 16 << 20

// kernelPath is where the kernel is. Its name is that of the process in ps, at most 15 bytes of it.
func kernelPath(card string) string { return "/toe: " + card }

// argument0 names the card for ps. At a reboot the kernel executes the program of this name that
// it finds in /bin: itself elsewhere, rebootProgram here.
func argument0(card string) string { return "toe-card-" + card }

func cellSocket(i int) string { return fmt.Sprintf("/net%d", i) }

// cell is all that the kernel gets to see of the host.
func (m *Machine) cell(spec machine.Spec) sandbox.Cell {
	c := sandbox.Cell{
		Path: kernelPath(spec.Name),
		Argv: arguments(spec),
		// TMPDIR is where the RAM file goes, HOME where its control files do.
		Env:            []string{"TMPDIR=" + cellMemory, "HOME=" + cellMemory},
		UID:            m.cfg.UID,
		GID:            m.cfg.GID,
		Binds:          []sandbox.Bind{{Source: spec.Kernel, Target: kernelPath(spec.Name)}},
		Scratch:        []sandbox.Scratch{{Target: cellMemory, Bytes: spec.Memory + memorySlack}},
		Files:          map[string][]byte{},
		Programs:       map[string][]byte{"/bin/" + argument0(spec.Name): rebootProgram()},
		Filter:         sandbox.UMLFilter,
		FixedAddresses: true,
		// With more CPUs its processes do run at once.
		OneCPU: spec.CPUs <= 1,
		// One descriptor a process on the card at times, and some for devices.
		OpenFiles: 4096,
		// The card's kernel has a process of the host for each of its own and
		// allows itself one for every 128 KiB of its memory (its threads-max).
		Processes: uint64(spec.Memory>>17) + 256,
		// It was seen with 10 MiB of its own; its processes have none, since
		// all the card's memory is in the file.
		Data: 256 << 20,
	}
	// The kernel reads the features of the CPU here; a copy will do.
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
	return c
}

// firstCPU keeps the first of equal blocks: on a large host the file would
// not fit into the helper's argument.
func firstCPU(info []byte) []byte {
	first, _, _ := strings.Cut(string(info), "\n\n")
	return []byte(first + "\n\n")
}

// arguments are the kernel's.
func arguments(spec machine.Spec) []string {
	args := []string{
		argument0(spec.Name),
		fmt.Sprintf("mem=%dK", spec.Memory>>10),
		// The filter of its own for the card's programs. Its other way,
		// ptrace, is slower and is not allowed in the cell.
		"seccomp=on",
		// No terminals but the console, and that on what it was given.
		"con=null", "con0=fd:0,fd:1", "ssl=null",
		"quiet", "panic=0",
		// Spares the calibration of the delay loop, 90 ms of every start.
		// On a user process it is a guess in any case.
		"lpj=20000000",
	}
	if spec.CPUs > 1 {
		args = append(args, fmt.Sprintf("ncpus=%d", spec.CPUs))
	}
	if spec.Initrd != "" {
		args = append(args, "initrd="+cellInitrd)
	}
	// The driver looks for a disk, and complains on the console when there is
	// none: one sector, read-only.
	args = append(args, "ubd0r="+cellNoDisk)
	for i := range spec.Nets {
		// 1 is VIRTIO_ID_NET (virtio 1.2, section 5).
		args = append(args, fmt.Sprintf("virtio_uml.device=%s:1", cellSocket(i)))
	}
	return append(args, strings.Fields(spec.Cmdline)...)
}
