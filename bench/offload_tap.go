package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/link"
	"github.com/toe-project/toe/link/tun"
)

// tapWays boot the same card once more for each of QEMU's own taps. One that cannot be made is
// skipped and named.
func (b *offloadRun) tapWays(ctx context.Context, note func(string)) error {
	for _, plain := range []bool{false, true} {
		name := tapName1500(!plain)
		note("the same card on QEMU's tap: " + name)
		if err := b.tapWay(ctx, tapKind{name, mtuWire, plain}); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			b.skip(fmt.Sprintf("%s/%s", b.kind, name), err.Error())
		}
	}
	return nil
}

// tapWay is a card with QEMU's tap for its link and a world of its own for
// its port, which is behind the pump as that of the other card is.
func (b *offloadRun) tapWay(ctx context.Context, kind tapKind) error {
	g, err := b.rivalRig(b.card, kind.name)
	if err != nil {
		return err
	}
	b.onClose(g.close)
	wire, err := b.rivalPort(ctx, g)
	if err != nil {
		return err
	}
	pid, err := b.startTapCard(g, kind, wire.socket)
	if err != nil {
		return err
	}
	if err := b.rivalReady(ctx, b.card, g, pid, kind.mtu); err != nil {
		return err
	}
	card, err := b.cardCPU(pid)
	if err != nil {
		return err
	}
	qemu, err := emulation(pid)
	if err != nil {
		return err
	}
	s, err := b.equip(ctx, g)
	if err != nil {
		return err
	}
	b.ways = append(b.ways, &way{
		name: kind.name, rig: g, side: s, port: b.nextPort(), device: tapName, via: g.host,
		program: s.spent(), mover: qemu, card: card, wire: process(wire.keeper.PumpPID()),
	})
	return nil
}

// rivalWire is the port of a rival's card.
type rivalWire struct {
	socket string
	keeper *link.Keeper
}

// rivalPort makes a world and a pump between it and a socket.
func (b *offloadRun) rivalPort(ctx context.Context, g *rig) (*rivalWire, error) {
	w, err := b.newWorld(b.worldEnd)
	if err != nil {
		return nil, err
	}
	g.onClose(w.close)
	var files []*os.File
	err = w.ns.do(func() (err error) {
		files, err = tun.Open(tun.Options{Name: worldTAP, Queues: 1, TAP: true})
		return err
	})
	if err != nil {
		return nil, err
	}
	p := &rivalWire{socket: filepath.Join(b.dir, g.name+".sock")}
	mac, err := net.ParseMAC(b.portMAC("wan"))
	if err == nil {
		p.keeper, err = link.NewKeeper(link.Device{
			Name: g.name, Socket: p.socket, MAC: mac, MTU: mtuWire, Files: files,
		}, link.Options{Event: func(e link.Event) { b.Progress.Log("%s: %s", e.Device, e.Text) }})
	}
	if err != nil {
		files[0].Close()
		return nil, err
	}
	served := make(chan error, 1)
	go func() { served <- p.keeper.Serve(ctx) }()
	g.onClose(func() error { p.keeper.Close(); <-served; return nil })
	return p, w.join(worldTAP)
}

func (b *offloadRun) portMAC(name string) string {
	for _, p := range b.card.status.Ports {
		if p.Name == name {
			return p.MAC
		}
	}
	return ""
}

func (b *offloadRun) startTapCard(g *rig, kind tapKind, socket string) (pid int, err error) {
	var tap *os.File
	if err := g.ns.do(func() (err error) { tap, err = openTAP(b.card, kind.mtu); return err }); err != nil {
		return 0, err
	}
	defer tap.Close()
	args := rivalArgs{netdev: "tap,id=net0,fd=3", console: filepath.Join(b.dir, g.name+".console")}
	if kind.plain {
		args.device = plainDevice
	}
	qemuPID := b.card.status.Machine.PID
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", qemuPID))
	if err != nil {
		return 0, err
	}
	had, port, err := withoutPort(strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")[1:])
	if err != nil {
		return 0, err
	}
	command, err := rivalCommand(had, args)
	if err != nil {
		return 0, err
	}
	fromRoot(command, had, fmt.Sprintf("/proc/%d/root", qemuPID))
	command = append(command,
		"-chardev", "socket,id=vhost1,path="+socket, "-netdev", "vhost-user,id=net1,chardev=vhost1,queues=1", "-device", port)
	program, err := exec.LookPath(arch.Host().QEMU)
	if err != nil {
		return 0, err
	}
	return g.start(exec.Command(program, command...), tap)
}

// fromRoot lets a QEMU read the kernel and initramfs that another one has in its own file system.
func fromRoot(command, had []string, root string) {
	for _, option := range []string{"-kernel", "-initrd"} {
		to, from := slices.Index(command, option), slices.Index(had, option)
		if to >= 0 && from >= 0 {
			command[to+1] = root + had[from+1]
		}
	}
}

// withoutPort removes the device of the card's port, the second one, from QEMU's arguments, and
// returns its properties.
func withoutPort(args []string) (rest []string, port string, err error) {
	for i := 0; i < len(args); i++ {
		if args[i] == "-device" && i+1 < len(args) && strings.HasPrefix(args[i+1], "virtio-net-pci,netdev=net1,") {
			i++
			port = args[i]
			continue
		}
		rest = append(rest, args[i])
	}
	if port == "" {
		return nil, "", errors.New("the card's QEMU has no second network device")
	}
	return rest, port, nil
}
