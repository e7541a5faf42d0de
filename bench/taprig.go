package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/link/tun"
)

// tapKind is one configuration of QEMU's own tap.
type tapKind struct {
	name  string
	mtu   int
	plain bool // without TSO
}

// tapMost is the largest MTU that Linux accepts for a TAP: 65535 less the Ethernet header.
const tapMost = 65521

var tapKinds = []tapKind{
	{"tap-65521", tapMost, false},
	{"tap-1500-tso", mtuWire, false},
	{"tap-1500-plain", mtuWire, true},
}

const tapName = "tap0"

// rivalLimit is the maximum time until a rival's card answers.
const rivalLimit = 90 * time.Second

// tapRig boots the card c once more, on QEMU's own tap: the same kernel and initramfs, so the same
// addresses, in a namespace of its own.
func (r *run) tapRig(ctx context.Context, c *testCard, kind tapKind) (*rig, error) {
	g, err := r.rivalRig(c, kind.name)
	if err != nil {
		return nil, err
	}
	if err := r.startTap(ctx, c, g, kind); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

func (r *run) startTap(ctx context.Context, c *testCard, g *rig, kind tapKind) error {
	var tap *os.File
	if err := g.ns.do(func() (err error) { tap, err = openTAP(c, kind.mtu); return err }); err != nil {
		return err
	}
	defer tap.Close()
	device := ""
	if kind.plain {
		device = plainDevice
	}
	pid, err := r.rivalQEMU(c, g, rivalArgs{netdev: "tap,id=net0,fd=3", device: device}, tap)
	if err != nil {
		return err
	}
	return r.rivalReady(ctx, c, g, pid, kind.mtu)
}

// rivalRig is the start of all rivals.
func (r *run) rivalRig(c *testCard, name string) (*rig, error) {
	ns, err := newNSThread()
	if err != nil {
		return nil, err
	}
	g := &rig{name: name, ns: ns, card: c.card, host: c.cardAddr()}
	g.onClose(func() error { ns.close(); return nil })
	return g, nil
}

// openTAP makes the tap that replaces the card's link: the constant address, no ARP, the same IP
// addresses.
func openTAP(c *testCard, mtu int) (*os.File, error) {
	files, err := tun.Open(tun.Options{Name: tapName, Queues: 1, TAP: true})
	if err != nil {
		return nil, err
	}
	if err := setTAP(c, mtu); err != nil {
		files[0].Close()
		return nil, fmt.Errorf("interface %s: %w", tapName, err)
	}
	return files[0], nil
}

func setTAP(c *testCard, mtu int) error {
	l, err := netlink.LinkByName(tapName)
	if err != nil {
		return err
	}
	mac, err := net.ParseMAC(control.LinkMAC)
	if err != nil {
		return err
	}
	host := c.hostAddr().AsSlice()
	return errors.Join(
		netlink.LinkSetHardwareAddr(l, mac),
		netlink.LinkSetARPOff(l),
		netlink.LinkSetMTU(l, mtu),
		netlink.LinkSetUp(l),
		netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: host, Mask: net.CIDRMask(31, 32)}}),
	)
}

// rivalQEMU starts a QEMU like c's in the rig's namespace. It dies with the
// rig's thread.
func (r *run) rivalQEMU(c *testCard, g *rig, args rivalArgs, files ...*os.File) (pid int, err error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", c.status.Machine.PID))
	if err != nil {
		return 0, err
	}
	had := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")[1:]
	// The kernel and the initramfs that the card itself was started from.
	root := fmt.Sprintf("/proc/%d/root", c.status.Machine.PID)
	args.kernel, args.initrd = root+valueOf(had, "-kernel"), root+valueOf(had, "-initrd")
	args.console = filepath.Join(r.dir, g.name+".console")
	command, err := rivalCommand(had, args)
	if err != nil {
		return 0, err
	}
	program, err := exec.LookPath(arch.Host().QEMU)
	if err != nil {
		return 0, err
	}
	return g.start(exec.Command(program, command...), files...)
}

// start runs a program in the rig's namespace until the rig is closed.
func (g *rig) start(cmd *exec.Cmd, files ...*os.File) (pid int, err error) {
	words := &lastLines{}
	cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = files, words, words
	// A session of its own, as the processes of the card have: Linux shares the CPUs by session if
	// autogroup is on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if err := g.ns.do(cmd.Start); err != nil {
		return 0, fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	g.onClose(func() error {
		_ = cmd.Process.Kill()
		<-ended
		return nil
	})
	select {
	case err := <-ended:
		ended <- err
		return 0, fmt.Errorf("%s ended at once: %w: %s", filepath.Base(cmd.Path), err, words)
	case <-time.After(200 * time.Millisecond):
		return cmd.Process.Pid, nil
	}
}

// rivalReady waits for the rival's card and sets its MTU.
func (r *run) rivalReady(ctx context.Context, c *testCard, g *rig, pid, mtu int, more ...spent) error {
	if err := g.listen(ctx, fmt.Sprintf("%s:%d", c.cardAddr(), servePort), rivalLimit); err != nil {
		return fmt.Errorf("%w; the end of its console: %s", err, tailOf(filepath.Join(r.dir, g.name+".console")))
	}
	qemu, err := emulation(pid)
	if err != nil {
		return err
	}
	g.others = total(append(more, qemu, r.softirqs())...)
	if mtu > mtuWire {
		return nil
	}
	const asItIs = 2 // the device stays as QEMU made it
	_, err = g.ask(ctx, 1, 'g', uint16(mtu), asItIs)
	return err
}

// tailOf returns the end of a file, for a message.
func tailOf(path string) string {
	b, _ := os.ReadFile(path)
	return string(b[max(0, len(b)-600):])
}
