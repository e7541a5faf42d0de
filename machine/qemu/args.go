package qemu

import (
	"fmt"
	"strings"

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
// The machine is "pc" without the devices that a card never uses. Measured on 2 virtual CPUs with
// QEMU 7.2's translator and Debian's 6.12 cloud kernel as vmlinux, from start to the first user
// process (best of two under some other load): q35 5.0 s, q35 with its devices off 5.1 s, pc 4.0 s,
// pc with hpet, usb and i8042 off 3.9 s; on an idle machine 2.4 s for pc against 3.2 s for q35.
// microvm took 2.4 s too, but it has no PCI bus without ACPI, and with ACPI the console stayed
// silent. acpi=off makes pc hang at power-off.
func baseArguments(kind machine.Kind, memory int64) []string {
	accel, cpu := "tcg,thread=multi", "max"
	if kind == machine.KVM {
		accel, cpu = "kvm", "host"
	}
	return []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-accel", accel, "-cpu", cpu,
		"-machine", "pc,hpet=off,usb=off,i8042=off,vmport=off,memory-backend=ram",
		// The memory is shared, because the vhost-user back ends map it.
		"-object", fmt.Sprintf("memory-backend-memfd,id=ram,size=%d,share=on", memory),
		"-m", fmt.Sprintf("%dM", memory>>20),
	}
}

// arguments returns the arguments for a card. The only values from outside toe are Spec.Cmdline and
// the name, which cannot end an option.
func (m *Machine) arguments(known features, spec machine.Spec) []string {
	args := append([]string{"qemu-card-" + spec.Name}, baseArguments(m.cfg.Kind, spec.Memory)...)
	args = append(args,
		"-smp", fmt.Sprint(max(spec.CPUs, 1)),
		"-name", "process=toe: "+spec.Name, // in ps
		"-kernel", cellKernel,
		"-append", kernelCommand(spec),
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD),
		"-mon", "chardev=qmp,mode=control",
		// cause reads the copy to tell a panic from a reboot.
		"-add-fd", fmt.Sprintf("fd=%d,set=1,opaque=console", copyFD),
		"-chardev", fmt.Sprintf("socket,id=console,fd=%d,logfile=/dev/fdset/1,logappend=on", consoleFD),
		"-serial", "chardev:console",
		"-object", "rng-random,id=rng,filename=/dev/urandom",
		"-device", "virtio-rng-pci,rng=rng,disable-legacy=on,vectors=0",
	)
	if spec.Initrd != "" {
		args = append(args, "-initrd", cellInitrd)
	}
	for i, n := range spec.Nets {
		args = append(args, m.netArguments(known, i, n)...)
	}
	for i := range spec.Disks {
		args = append(args, diskArguments(known, i)...)
	}
	return args
}

// kernelCommand returns the kernel's command line. panic=-1 makes a panic end the machine at once.
func kernelCommand(spec machine.Spec) string {
	return strings.TrimSpace("console=ttyS0 quiet panic=-1 " + spec.Cmdline)
}

func (m *Machine) netArguments(known features, i int, n machine.Net) []string {
	dev := fmt.Sprintf("virtio-net-pci,netdev=net%d,mac=%s,disable-legacy=on,romfile=", i, n.MAC)
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
		vectors = 0 // interrupts by the PCI line
	}
	dev += fmt.Sprintf(",mq=%s,vectors=%d", onOff(queues > 1), vectors)
	return []string{
		"-chardev", fmt.Sprintf("socket,id=vhost%d,path=%s,%s", i, cellSocket(i), known.reconnect()),
		"-netdev", fmt.Sprintf("vhost-user,id=net%d,chardev=vhost%d,queues=%d", i, i, queues),
		"-device", dev,
	}
}

// diskArguments returns the arguments for disk i. The card's PCI bus has the disks in the order of
// the arguments. config-wce is off, because the disk's cache cannot be switched (package disk).
func diskArguments(known features, i int) []string {
	vectors := 2
	if !known.msix {
		vectors = 0
	}
	return []string{
		"-chardev", fmt.Sprintf("socket,id=disk%d,path=%s,%s", i, cellDisk(i), known.reconnect()),
		"-device", fmt.Sprintf("vhost-user-blk-pci,chardev=disk%d,disable-legacy=on,num-queues=1,"+
			"queue-size=256,config-wce=off,vectors=%d", i, vectors),
	}
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}
