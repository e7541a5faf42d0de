package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/link"
	"github.com/toe-project/toe/link/tun"
)

type pumpFlags struct {
	socket, iface     string
	fd, queues        int
	spin              int // µs
	printCapabilities bool
	tap               bool
	mtu               int // bytes, 0 for the TAP's
	mac               string
	hardwareAddr      net.HardwareAddr // of mac, nil for one of our choice
}

// pumpCmd is the back end alone, by the conventions of vhost-user back-end
// programs (QEMU docs/interop/vhost-user.rst, "Backend program conventions").
func pumpCmd() *cobra.Command {
	var f pumpFlags
	c := &cobra.Command{
		Use:   "pump --socket-path PATH --interface NAME",
		Short: "Run the link's back end alone, for any virtual machine monitor",
		Long: `Pump is the vhost-user-net back end of a link, in the foreground: the virtual
machine that connects to the socket is joined to the TUN interface NAME by IP
packets with an MTU of 65535. NAME is created if it does not exist, and gets that
MTU where you may set it. Its addresses are yours to set, and to bring it up
(ip link set NAME up). It ends on SIGTERM.

With --tap the virtual machine is joined to the TAP interface NAME by Ethernet
frames. It learns the MTU that NAME has at the start, and a hardware address of
its own, derived from this host's machine-id and NAME; --mtu and --mac set others.
The MTU of a TAP is yours to set.

On a link the device at the other end must have the hardware address
02:74:6f:65:00:01, to which every packet of a link is addressed (QEMU:
mac=02:74:6f:65:00:01), and no ARP (ip link set DEV arp off mtu 65535).`,
		Example: `  toe pump --socket-path /run/link.sock --interface toe0
  toe pump --fd 3 --interface toe0 --queues 2
  toe pump --socket-path /run/port.sock --interface tap0 --tap --mac 02:00:00:00:00:07
  toe pump --print-capabilities`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runPump(cmd, f) },
	}
	c.Flags().StringVar(&f.socket, "socket-path", "", "listen for the front end on this socket")
	c.Flags().IntVar(&f.fd, "fd", -1,
		"a connected vhost-user socket that was passed in, instead of --socket-path")
	c.Flags().StringVar(&f.iface, "interface", "", "TUN interface of the host")
	c.Flags().IntVar(&f.queues, "queues", 1, "queue pairs")
	c.Flags().IntVar(&f.spin, "spin", 0,
		"look for packets for so many µs before sleeping, at most 10000; burns a CPU")
	c.Flags().BoolVar(&f.tap, "tap", false,
		"a TAP with Ethernet frames instead of a TUN with IP packets")
	c.Flags().IntVar(&f.mtu, "mtu", 0,
		"with --tap: the MTU of the front end, from 68 to that of the TAP (default that of the TAP)")
	c.Flags().StringVar(&f.mac, "mac", "",
		"with --tap: hardware address of the front end (default derived from machine-id and NAME)")
	c.Flags().BoolVar(&f.printCapabilities, "print-capabilities", false,
		"print what this back end can do, as JSON, and exit")
	return c
}

func runPump(cmd *cobra.Command, f pumpFlags) error {
	if f.printCapabilities {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"type": "net", "features": []string{}})
	}
	if f.iface == "" || (f.socket == "") == (f.fd < 0) {
		return cli.Usagef("pump: want --interface and one of --socket-path and --fd")
	}
	if err := f.check(); err != nil {
		return cli.Usagef("pump: %w", err)
	}
	say := func(format string, args ...any) {
		fmt.Fprintf(cmd.ErrOrStderr(), f.iface+": "+format+"\n", args...)
	}
	files, err := openInterface(f, say)
	if err != nil {
		return err
	}
	a, err := f.announce()
	if err != nil {
		closeAll(files)
		return err
	}
	k, err := link.NewKeeper(link.Device{
		Name: f.iface, Socket: f.socket, MAC: a.mac, MTU: a.mtu, Files: files, Seam: !f.tap, Spin: f.spinTime(),
	}, link.Options{Event: func(e link.Event) { say("%s", e.Text) }})
	if err != nil {
		return err
	}
	defer k.Close()
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if f.fd >= 0 {
		return conversePassed(ctx, k, f.fd)
	}
	return k.Serve(ctx)
}

// check is for what is wrong whatever the host is like, before anything is made.
func (f *pumpFlags) check() error {
	if err := spec.CheckInterface(f.iface); err != nil {
		return err
	}
	if f.queues < 1 || f.queues > tun.MaxQueues {
		return fmt.Errorf("--queues %d: between 1 and %d", f.queues, tun.MaxQueues)
	}
	if f.spin < 0 || f.spinTime() > link.MaxSpin {
		return fmt.Errorf("--spin %d: between 0 and %d µs", f.spin, link.MaxSpin/time.Microsecond)
	}
	if f.fd >= 0 {
		kind, err := unix.GetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_TYPE)
		switch {
		case errors.Is(err, unix.EBADF):
			return fmt.Errorf("--fd %d: no such descriptor was passed in", f.fd)
		case err != nil || kind != unix.SOCK_STREAM:
			return fmt.Errorf("--fd %d: want a connected stream socket, and this is none", f.fd)
		}
	}
	return f.checkAnnounced()
}

func (f pumpFlags) spinTime() time.Duration { return time.Duration(f.spin) * time.Microsecond }

// openInterface opens NAME, and gives a TUN the link's MTU.
func openInterface(f pumpFlags, say func(string, ...any)) ([]*os.File, error) {
	files, err := tun.Open(tun.Options{Name: f.iface, Queues: f.queues, TAP: f.tap})
	if err != nil || f.tap {
		return files, err
	}
	if err := giveMTU(f.iface, say); err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}

// conversePassed speaks with the one front end behind a descriptor.
func conversePassed(ctx context.Context, k *link.Keeper, fd int) error {
	file := os.NewFile(uintptr(fd), "--fd")
	c, err := net.FileConn(file)
	if err != nil {
		return cli.Usagef("--fd %d: want a connected stream socket: %w", fd, err)
	}
	file.Close()
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return cli.Usagef("--fd %d: want a unix socket, got %s", fd, c.LocalAddr().Network())
	}
	defer context.AfterFunc(ctx, func() { k.Close() })()
	if err := k.Converse(u); ctx.Err() == nil {
		return err
	}
	return nil
}
