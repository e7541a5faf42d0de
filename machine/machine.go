// Package machine is the hardware seam: what runs a card's CPU.
//
// A Machine is a kind of hardware (QEMU with KVM, QEMU with TCG, User-Mode
// Linux; later a board in a slot). Start powers one card up and returns an
// Instance. Everything above this package treats all kinds alike.
//
// The contract:
//
//   - Start returns as soon as the card's CPU runs, not when the card is
//     ready. Readiness is the supervisor's to judge, through the control API.
//   - The machine process and whatever it starts die with the process that
//     called Start, also when that one is killed with SIGKILL.
//   - A network device is of one of the kinds that Nets names. The machine is a
//     client of the socket of every vhost-user device; the sockets are already
//     listening when Start is called.
//   - A card that reboots ends its instance with Exit.Cause Rebooted, and a
//     card that powers off with PoweredOff: starting it again is the
//     supervisor's decision, so that the next start sees a new Spec.
//   - The console is a byte stream. The instance owns its end from Start on;
//     the caller keeps the other end and may read it after the exit.
//   - Start leaves nothing behind when it fails, and Stop leaves nothing
//     behind ever.
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

// NetKind is how a network device reaches what is behind it.
type NetKind string

const (
	VhostUser NetKind = "vhost-user" // a back end behind a socket
	UserNet   NetKind = "user"       // the machine's own user-mode network
)

func (n Net) kind() NetKind { return cmp.Or(n.Kind, VhostUser) }

// IsVhostUser says whether the device has a vhost-user back end.
func (n Net) IsVhostUser() bool { return n.kind() == VhostUser }

// CheckNets finds the devices that m has not, and those whose socket is not there, which would show
// as a dead card only.
func CheckNets(m Machine, nets []Net) error {
	for _, n := range nets {
		if !slices.Contains(m.Nets(), n.kind()) {
			return fmt.Errorf("network device %s: kind %q, machine %s has %q", n.Name, n.kind(), m.Kind(), m.Nets())
		}
		if !n.IsVhostUser() {
			continue
		}
		if st, err := os.Stat(n.Socket); err != nil {
			return fmt.Errorf("network device %s: vhost-user socket: %w", n.Name, err)
		} else if st.Mode().Type() != os.ModeSocket {
			return fmt.Errorf("network device %s: %s has mode %v, want a vhost-user socket", n.Name, n.Socket, st.Mode())
		}
	}
	return nil
}

// Spec is all that a machine needs to know to run a card.
type Spec struct {
	Name    string // the card's name, for messages and process titles
	Dir     string // a directory of this instance's own on tmpfs, existing, mode 0700
	Kernel  string // uncompressed vmlinux (QEMU) or the linux binary (UML)
	Initrd  string // initramfs: firmware and the card's own configuration, concatenated
	Cmdline string // extra kernel arguments, after the machine's own
	CPUs    int
	Memory  int64 // bytes
	Nets    []Net
	Console *os.File // the machine's end of a stream socket; closed by Start in any case
}

// Cause says why an instance ended.
type Cause string

const (
	Stopped    Cause = "stopped"     // Stop was called
	PoweredOff Cause = "powered-off" // the card turned itself off
	Rebooted   Cause = "rebooted"    // the card asked for a reboot
	Panicked   Cause = "panicked"    // the card's kernel gave up
	Killed     Cause = "killed"      // a signal from outside ended the process
	Crashed    Cause = "crashed"     // the process ended with an error of its own
)

// Exit is the end of an instance.
type Exit struct {
	Cause  Cause
	Detail string // one line for a person: signal, exit status, last words on stderr
}

func (e Exit) String() string {
	if e.Detail == "" {
		return string(e.Cause)
	}
	return fmt.Sprintf("%s (%s)", e.Cause, e.Detail)
}

// Instance is a card that was started.
type Instance interface {
	// PID is the process to account the card's CPU time to.
	PID() int
	// Done is closed when the instance has ended and Exit may be read.
	Done() <-chan struct{}
	// Exit is why it ended; valid after Done is closed.
	Exit() Exit
	// Stop powers the card off at once (the agent's orderly shutdown has
	// been tried by then), and returns when nothing of it is left or ctx
	// has ended, after which it has been killed.
	Stop(ctx context.Context) error
}

// Machine is one kind of hardware.
type Machine interface {
	Kind() Kind
	// Nets are the kinds of network devices that Start takes.
	Nets() []NetKind
	// Probe says whether this kind really works on this host now, in a few
	// words for a person either way. It starts what it has to start (a few
	// instructions in a guest, the kernel to its banner) under a time limit,
	// and leaves nothing running.
	Probe(ctx context.Context) (how string, err error)
	// Start powers a card up. Errors name the file, device or option at fault.
	Start(ctx context.Context, spec Spec) (Instance, error)
}
