package bench

import (
	"fmt"
	"strings"
)

// plainDevice is the properties of a virtio-net device that neither accepts nor delivers segments
// larger than the MTU.
const plainDevice = ",host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off," +
	"guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off"

// rivalArgs is the difference between a card's QEMU and a rival's.
type rivalArgs struct {
	kernel, initrd, console string // paths
	chardev                 string // of the network's back end, or empty
	netdev                  string // with the id that the card's has: net0
	device                  string // properties to add
	vhost                   bool   // the back end speaks vhost-user, as the card's
}

// rivalCommand makes the command line of a QEMU whose card differs from a running one (args,
// without the program) only in its network: the same CPU, memory, kernel, initramfs and devices.
func rivalCommand(args []string, r rivalArgs) ([]string, error) {
	var out []string
	nets := 0
	for i := 0; i < len(args); i++ {
		option := args[i]
		if !strings.HasPrefix(option, "-") {
			return nil, fmt.Errorf("QEMU's argument %d is %q, want an option", i, option)
		}
		if !takesValue(option) {
			out = append(out, option)
			continue
		}
		if i++; i == len(args) {
			return nil, fmt.Errorf("QEMU's option %s has no value", option)
		}
		value, keep := r.change(option, args[i])
		if option == "-device" && strings.HasPrefix(value, "virtio-net-pci,") {
			nets++
		}
		if keep {
			out = append(out, option, value)
		}
	}
	if nets != 1 {
		return nil, fmt.Errorf("the card's QEMU has %d network devices, want 1", nets)
	}
	out = append(out, "-chardev", "file,id=console,path="+r.console, "-serial", "chardev:console")
	if r.chardev != "" {
		out = append(out, "-chardev", r.chardev)
	}
	return append(out, "-netdev", r.netdev), nil
}

// valueOf is the value of an option, or "".
func valueOf(args []string, option string) string {
	for i := 0; i+1 < len(args); i++ {
		if args[i] == option {
			return args[i+1]
		}
	}
	return ""
}

func takesValue(option string) bool {
	switch option {
	case "-nodefaults", "-no-user-config", "-no-reboot", "-no-shutdown", "-nographic", "-S":
		return false
	}
	return true
}

// change returns an option's value in the rival, and whether the rival has the option: there are no
// sockets of the supervisor.
func (r rivalArgs) change(option, value string) (string, bool) {
	switch option {
	case "-kernel":
		return r.kernel, true
	case "-initrd":
		return r.initrd, true
	case "-chardev", "-mon", "-add-fd", "-serial", "-netdev", "-qmp":
		return "", false
	case "-device":
		if strings.HasPrefix(value, "virtio-net-pci,") {
			return r.netDevice(value) + r.device, true
		}
	}
	return value, true
}

// netDevice drops the properties that the card's device has because of vhost-user and of the link's
// MTU: interrupts, whose fault a tap does not have, and long transmit queues, which QEMU supports
// only for vhost-user (7.2 shortens them, 10 exits).
func (r rivalArgs) netDevice(value string) string {
	var kept []string
	for _, p := range strings.Split(value, ",") {
		switch name, _, _ := strings.Cut(p, "="); name {
		case "host_mtu", "mq":
		case "vectors", "tx_queue_size":
			if r.vhost {
				kept = append(kept, p)
			}
		default:
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, ",")
}
