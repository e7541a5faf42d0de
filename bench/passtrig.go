package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/link/tun"
)

// passtMost is the largest MTU that passt accepts.
const passtMost = 65520

// passtRig boots the card that runs as c once more, on passt in vhost-user mode: passt(1)
// terminates the card's connections and originates its own here.
func (r *run) passtRig(ctx context.Context, c *testCard) (*rig, error) {
	program, err := r.findPasst(ctx)
	if err != nil {
		return nil, err
	}
	g, err := r.rivalRig(c, "passt")
	if err != nil {
		return nil, err
	}
	if err := r.startPasst(ctx, c, g, program); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

func (r *run) startPasst(ctx context.Context, c *testCard, g *rig, program []string) error {
	if err := g.ns.do(func() error { return wayOut(g) }); err != nil {
		return err
	}
	socket := filepath.Join(r.dir, "passt.sock")
	// passt is found at the loopback address, and its card finds this host at
	// the link's.
	g.host = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	args := append(program[1:], "--vhost-user", "--foreground", "--socket", socket, "--ipv4-only",
		"--address", c.cardAddr().String(), "--netmask", "31", "--gateway", c.hostAddr().String(),
		"--mtu", fmt.Sprint(passtMost), "--tcp-ports", fmt.Sprintf("22,%d", servePort), "--udp-ports", fmt.Sprint(cardUDP))
	passt, err := g.start(exec.Command(program[0], args...))
	if err != nil {
		return err
	}
	if err := awaitFile(ctx, socket, 5*time.Second); err != nil {
		return fmt.Errorf("passt's socket: %w", err)
	}
	qemu, err := r.rivalQEMU(c, g, rivalArgs{
		chardev: "socket,id=vhost0,path=" + socket, netdev: "vhost-user,id=net0,chardev=vhost0", vhost: true,
	})
	if err != nil {
		return err
	}
	return r.rivalReady(ctx, c, g, qemu, passtMost, process(passt))
}

const wayOutName = "out0"

// wayOut makes an interface with a default route to a dead end: without one passt gives its card
// addresses of its own choice.
func wayOut(g *rig) error {
	files, err := tun.Open(tun.Options{Name: wayOutName, Queues: 1})
	if err != nil {
		return err
	}
	g.onClose(files[0].Close)
	l, err := netlink.LinkByName(wayOutName)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(198, 18, 0, 1), Mask: net.CIDRMask(24, 32)}} // RFC 2544
	if err := errors.Join(netlink.LinkSetUp(l), netlink.AddrAdd(l, addr)); err != nil {
		return fmt.Errorf("interface %s: %w", wayOutName, err)
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
}

// awaitFile waits until path exists.
func awaitFile(ctx context.Context, path string, limit time.Duration) error {
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		_, err := os.Stat(path)
		if err == nil || ctx.Err() != nil || time.Now().After(end) {
			return errors.Join(err, ctx.Err())
		}
	}
}
