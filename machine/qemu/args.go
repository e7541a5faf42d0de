package qemu

import (
	"fmt"
	"slices"
	"strings"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/machine"
)

// Paths inside the cell, and the descriptors that it gets.
const (
	cellKernel = "/card/kernel"
	cellInitrd = "/card/initrd"

	qmpFD     = 4 // one end of a socket pair
	consoleFD = 5 // Spec.Console
	copyFD    = 6 // a pipe that gets a copy of the console's output
)

func cellSocket(i int) string { return fmt.Sprintf("/card/net%d", i) }

func cellDisk(i int) string { return fmt.Sprintf("/card/disk%d", i) }

// baseArguments returns the arguments for every guest, the probe's included.
//
// The board of amd64 is "pc" without the devices that a card never uses. Measured on 2 virtual CPUs with
// QEMU 7.2's translator and Debian's 6.12 cloud kernel as vmlinux, from start to the first user
// process (best of two under some other load): q35 5.0 s, q35 with its devices off 5.1 s, pc 4.0 s,
// pc with hpet, usb and i8042 off 3.9 s; on an idle machine 2.4 s for pc against 3.2 s for q35.
// microvm took 2.4 s too, but it has no PCI bus without ACPI, and with ACPI the console stayed
// silent. acpi=off makes pc hang at power-off.
func (m *Machine) baseArguments(memory int64) []string {
	a := m.cfg.Arch
	accel, board, cpu := []string{"-accel", "tcg,thread=multi"}, a.Board, a.CPU
	switch {
	case m.cfg.Kind == machine.KVM:
		accel, board, cpu = []string{"-accel", "kvm"}, board+a.KVM, "host"
	case a.OneThread:
		// Time is then counted in instructions, at a rate that follows the host's clock. The board's
		// clock counts the same way, because the kernel measures the CPU's counter by it.
		accel = []string{"-accel", "tcg,thread=single", "-icount", "shift=auto,sleep=on,align=off", "-rtc", "clock=vm"}
	}
	return append([]string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-cpu", cpu,
		"-machine", board + ",memory-backend=ram",
		// The memory is shared, because the vhost-user back ends map it.
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%d,share=on", memory),
		"-m", fmt.Sprintf("%dM", memory>>20),
	}, slices.Concat(accel, a.Extra)...)
}

// arguments returns the arguments for a card. The only values from outside toe are Spec.Cmdline and
// the name, which cannot end an option.
func (m *Machine) arguments(known features, spec machine.Spec) []string {
	args := append([]string{"qemu-card-" + spec.Name}, m.baseArguments(spec.Memory)...)
	args = append(args,
		"-smp", fmt.Sprint(max(spec.CPUs, 1)),
		"-name", "process=toe: "+spec.Name, // in ps
		"-kernel", cellKernel,
		"-append", m.kernelCommand(spec),
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD),
		"-mon", "chardev=qmp,mode=control",
		// cause reads the copy to tell a panic from a reboot.
		"-add-fd", fmt.Sprintf("fd=%d,set=1,opaque=console", copyFD),
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d,logfile=/dev/fdset/1,logappend=on", consoleFD),
		"-serial", "chardev:console",
		"-object", "rng-random,id=rng,filename=/dev/urandom",
		"-device", m.device("virtio-rng")+m.vectors(0)+",rng=rng",
	)
	if spec.Initrd != "" {
		args = append(args, "-initrd", cellInitrd)
	}
	for i, n := range spec.Nets {
		args = append(args, m.netArguments(known, i, n)...)
	}
	for i := range spec.Disks {
		args = append(args, m.diskArguments(known, i)...)
	}
	return args
}

// kernelCommand returns the kernel's command line. panic=-1 makes a panic end the machine at once.
func (m *Machine) kernelCommand(spec machine.Spec) string {
	return strings.TrimSpace("console=" + m.cfg.Arch.Console + " quiet panic=-1 " + spec.Cmdline)
}

// device begins the -device of a virtio device: on a PCI bus a modern one.
func (m *Machine) device(name string) string {
	if m.cfg.Arch.Bus != arch.PCI {
		return name + "-" + string(m.cfg.Arch.Bus)
	}
	return name + "-pci,disable-legacy=on"
}

// vectors is the option for n MSI-X vectors. With 0 the device interrupts by the PCI line. Channels
// have neither.
func (m *Machine) vectors(n int) string {
	if m.cfg.Arch.Bus != arch.PCI {
		return ""
	}
	return fmt.Sprintf(",vectors=%d", n)
}

func (m *Machine) netArguments(known features, i int, n machine.Net) []string {
	dev := m.device("virtio-net") + fmt.Sprintf(",netdev=net%d,mac=%s", i, n.MAC)
	if m.cfg.Arch.Bus == arch.PCI {
		dev += ",romfile="
	}
	if !n.IsVhostUser() {
		return []string{"-netdev", fmt.Sprintf("user,id=net%d", i), "-device", dev}
	}
	queues := max(n.Queues, 1)
	// Full-size queues: a 64K packet takes a buffer of 17 pages.
	dev += ",rx_queue_size=1024,tx_queue_size=1024"
	if n.MTU > 0 {
		dev += fmt.Sprintf(",host_mtu=%d", n.MTU)
	}
	vectors := 2*queues + 2
	if !known.msix {
		vectors = 0
	}
	dev += ",mq=" + onOff(queues > 1) + m.vectors(vectors)
	return []string{
		"-chardev", fmt.Sprintf("socket,id=vhost%d,path=%s,%s", i, cellSocket(i), known.reconnect()),
		"-netdev", fmt.Sprintf("vhost-user,id=net%d,chardev=vhost%d,queues=%d", i, i, queues),
		"-device", dev,
	}
}

// diskArguments returns the arguments for disk i. The card's PCI bus has the disks in the order of
// the arguments. config-wce is off, because the disk's cache cannot be switched (package disk).
func (m *Machine) diskArguments(known features, i int) []string {
	vectors := 2
	if !known.msix {
		vectors = 0
	}
	return []string{
		"-chardev", fmt.Sprintf("socket,id=disk%d,path=%s,%s", i, cellDisk(i), known.reconnect()),
		"-device", m.device("vhost-user-blk") + m.vectors(vectors) +
			fmt.Sprintf(",chardev=disk%d,num-queues=1,queue-size=256,config-wce=off", i),
	}
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
