// Package machine is the hardware seam: what runs a card's CPU.
//
// A Machine is a kind of hardware (QEMU with KVM, QEMU with TCG, User-Mode
// Linux; later a board in a slot). Start powers one card up and returns an
// Instance. Everything above this package treats all kinds alike.
//
// The contract:
//
//   - Start returns as soon as the card's CPU runs, not when the card is
//     ready. The supervisor judges readiness through the control API.
//   - The machine process and its children die with the process that called
//     Start, even if that process is killed with SIGKILL.
//   - A network device is of one of the kinds that Nets names. The machine is a
//     client of the socket of every vhost-user device; the sockets are already
//     listening when Start is called. Every machine supports disks.
//   - A card that reboots ends its instance with Exit.Cause Rebooted, and a
//     card that powers off with PoweredOff. The supervisor decides whether to
//     start it again, so that the next start sees a new Spec.
//   - The console is a byte stream. The instance owns its end from Start on;
//     the caller keeps the other end and may read it after the exit.
//   - A failed Start leaves nothing behind. Stop never leaves anything behind.
package machine

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
)

// Kind names a kind of machine as card.yaml and toe status spell it.
type Kind string

const (
	KVM  Kind = "kvm" // QEMU with hardware virtualization
	UML  Kind = "uml" // User-Mode Linux: native speed, no KVM, no privilege
	TCG  Kind = "tcg" // QEMU with its own translator: any architecture
	Fake Kind = "fake"
)

// Net is one network device of the card. Devices appear on the card in the
// order of Spec.Nets, and the card knows each by its MAC address.
type Net struct {
	Name   string           // for messages: "link", "exec", or the port's name
	MAC    net.HardwareAddr // locally administered, unique on the card
	MTU    int              // bytes; 65535 on a link
	Queues int              // queue pairs, at least 1
	Kind   NetKind          // empty means VhostUser
	Socket string           // of a vhost-user device: the path that its back end listens on
}

// NetKind is the back end of a network device.
type NetKind string

const (
	VhostUser NetKind = "vhost-user" // a back end behind a socket
	UserNet   NetKind = "user"       // the machine's own user-mode network
)

func (n Net) kind() NetKind { return cmp.Or(n.Kind, VhostUser) }

// IsVhostUser reports whether the device has a vhost-user back end.
func (n Net) IsVhostUser() bool { return n.kind() == VhostUser }

// CheckNets rejects devices that m does not support and devices without a socket. Without the check
// both would show only as a dead card.
func CheckNets(m Machine, nets []Net) error {
	for _, n := range nets {
		if !slices.Contains(m.Nets(), n.kind()) {
			return fmt.Errorf("network device %s: kind %q, machine %s has %q", n.Name, n.kind(), m.Kind(), m.Nets())
		}
		if !n.IsVhostUser() {
			continue
		}
		if err := checkSocket(n.Socket); err != nil {
			return fmt.Errorf("network device %s: %w", n.Name, err)
		}
	}
	return nil
}

// Spec describes a card to a machine.
type Spec struct {
	Name    string // the card's name, for messages and process titles
	Dir     string // this instance's directory on tmpfs; it exists, mode 0700
	Kernel  string // uncompressed vmlinux (QEMU) or the linux binary (UML)
	Initrd  string // initramfs: firmware and the card's own configuration, concatenated
	Cmdline string // extra kernel arguments, after the machine's own
	CPUs    int
	Memory  int64 // bytes
	Nets    []Net
	Disks   []Disk
	Console *os.File // the machine's end of a stream socket; Start always closes it
}

// Cause is the reason why an instance ended.
type Cause string

const (
	Stopped    Cause = "stopped"     // Stop was called
	PoweredOff Cause = "powered-off" // the card powered itself off
	Rebooted   Cause = "rebooted"    // the card asked for a reboot
	Panicked   Cause = "panicked"    // the card's kernel panicked
	Killed     Cause = "killed"      // a signal from outside ended the process
	Crashed    Cause = "crashed"     // the process failed by itself
)

// Exit is the end of an instance.
type Exit struct {
	Cause  Cause
	Detail string // one line for display: signal, exit status, last line on stderr
}

func (e Exit) String() string {
	if e.Detail == "" {
		return string(e.Cause)
	}
	return fmt.Sprintf("%s (%s)", e.Cause, e.Detail)
}

// Instance is a started card.
type Instance interface {
	// PID is the process to account the card's CPU time to.
	PID() int
	// Done is closed when the instance has ended and Exit may be read.
	Done() <-chan struct{}
	// Exit is why it ended; valid after Done is closed.
	Exit() Exit
	// Stop powers the card off at once (the agent's orderly shutdown has been tried by then). It
	// returns when nothing of the card is left or ctx has ended; the card has been killed then.
	Stop(ctx context.Context) error
}

// Machine is one kind of hardware.
type Machine interface {
	Kind() Kind
	// Nets returns the kinds of network devices that Start supports.
	Nets() []NetKind
	// Probe tests whether this kind works on this host now, and returns a short text for display
	// either way. It starts what the test needs (a few instructions in a guest, the kernel to its
	// banner) under a time limit, and leaves nothing running.
	Probe(ctx context.Context) (how string, err error)
	// Start powers a card up. Errors name the faulty file, device or option.
	Start(ctx context.Context, spec Spec) (Instance, error)
}
