package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
)

// link is the card's end of a connection to the host.
type link struct {
	conf control.Link
	nl   *netlink.Handle
	sys  sysctls

	mu  sync.Mutex // guards err
	err error      // why the link is not up; errStarting before the first try
}

var errStarting = errors.New("not set up yet")

func newLink(conf control.Link, nl *netlink.Handle, sys sysctls) *link {
	return &link{conf: conf, nl: nl, sys: sys, err: errStarting}
}

// up brings the link up. It is idempotent.
func (l *link) up() error {
	err := l.configure()
	l.mu.Lock()
	l.err = err
	l.mu.Unlock()
	return err
}

func (l *link) configure() error {
	dev, err := l.device()
	if err != nil {
		return err
	}
	l.sys.forLink(l.conf.Name)
	// No ARP and no neighbour discovery: the Ethernet header on the link is
	// constant, so there is no address to resolve.
	if err := l.nl.LinkSetARPOff(dev); err != nil {
		return fmt.Errorf("NOARP on %s: %w", l.conf.Name, err)
	}
	if err := setMTU(l.nl, dev, control.LinkMTU); err != nil {
		return err
	}
	if err := l.nl.LinkSetUp(dev); err != nil {
		return fmt.Errorf("set %s up: %w", l.conf.Name, err)
	}
	for _, p := range l.conf.Card {
		if err := addAddress(l.nl, dev, p, unix.IFA_F_NODAD); err != nil {
			return err
		}
	}
	return l.keepHost(dev)
}

// keepHost adds a route to each IPv6 address of the host that no advertisement on
// the wire can override. The kernel adds a route for any prefix that a router
// advertises as on-link, down to a single address, and would send the host's
// packets to the wire. DHCP's answers are checked before (hijacks).
func (l *link) keepHost(dev netlink.Link) error {
	for _, h := range l.conf.Host {
		if !h.Is6() {
			continue
		}
		if err := addRoute(l.nl, dev, route{dst: netip.PrefixFrom(h, 128), metric: 1}); err != nil {
			return err
		}
	}
	return nil
}

// device finds the link's device. It gives it its name, and the address that
// frames on the bus have as destination.
func (l *link) device() (netlink.Link, error) {
	dev, err := l.nl.LinkByName(l.conf.Name)
	if err == nil && dev.Attrs().HardwareAddr.String() == control.LinkMAC {
		return dev, nil // it was up before
	}
	dev, err = nameDevice(l.nl, l.conf.MAC, l.conf.Name)
	if err != nil {
		return nil, err
	}
	mac, err := net.ParseMAC(control.LinkMAC)
	if err != nil {
		return nil, err
	}
	if err := l.nl.LinkSetHardwareAddr(dev, mac); err != nil {
		return nil, fmt.Errorf("MAC %s on %s: %w", mac, l.conf.Name, err)
	}
	return dev, nil
}

// keepTrying calls up until it succeeds or ctx ends: a device may appear late,
// when its driver is a module.
func (l *link) keepTrying(ctx context.Context, log *Log) bool {
	pause := 5 * time.Millisecond
	said := ""
	for {
		err := l.up()
		if err == nil {
			return true
		}
		if err.Error() != said && pause > 200*time.Millisecond {
			said = err.Error()
			log.Sayf("link %s: %v", l.conf.Name, err)
		}
		if !sleep(ctx, pause) {
			return false
		}
		pause = min(2*pause, time.Second)
	}
}

func (l *link) health() reason {
	r := reason{component: "link " + l.conf.Name, state: healthy}
	l.mu.Lock()
	err := l.err
	l.mu.Unlock()
	if errors.Is(err, errStarting) {
		return r.with(starting, err.Error())
	}
	if err != nil {
		return r.with(degraded, err.Error())
	}
	dev, err := l.nl.LinkByName(l.conf.Name)
	if err != nil {
		return r.with(degraded, fmt.Sprintf("the device is gone: %v", err))
	}
	if a := dev.Attrs(); a.RawFlags&unix.IFF_UP == 0 || a.RawFlags&unix.IFF_LOWER_UP == 0 {
		return r.with(degraded, "no carrier: the host's end is not there")
	} else if a.MTU != control.LinkMTU {
		return r.with(degraded, fmt.Sprintf("MTU %d, want %d", a.MTU, control.LinkMTU))
	}
	return r
}

// sleep waits for d and returns true, or returns false when ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
