// Package firewall finds out whether this host's firewall lets the packets of
// a link pass, by sending some, and names the chains that may drop them.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/link/frame"
	"github.com/toe-project/toe/link/tun"
)

// Dropped says that the host's firewall drops packets of a link.
type Dropped struct {
	ToCard bool    // else to the host
	Chains []Chain // that may drop them; none where nf_tables has none
}

func (d *Dropped) Error() string {
	way := "from the card to this host"
	if d.ToCard {
		way = "from this host to the card"
	}
	if len(d.Chains) == 0 {
		return "the firewall of this host drops packets " + way + ", and it is not in nf_tables"
	}
	names := make([]string, len(d.Chains))
	for i, c := range d.Chains {
		names[i] = c.String()
	}
	return "the firewall of this host drops packets " + way + "; look at " + strings.Join(names, ", ")
}

// Fix is what to type: a rule for the interfaces of links, before the others.
func (d *Dropped) Fix() string {
	if len(d.Chains) == 0 {
		return "sudo iptables-legacy -S   # let the interfaces toe+ pass"
	}
	fix := make([]string, len(d.Chains))
	for i, c := range d.Chains {
		fix[i] = c.accept(d.ToCard)
	}
	return strings.Join(fix, "; ")
}

// patience is how long a packet may take through this host.
const patience = time.Second

// Probe makes a TUN in the calling thread's network namespace, as a link has
// one, and opens a TCP connection through it, whose other end it plays itself.
// The error is a *Dropped where the firewall is in the way. The TUN goes with
// its descriptor. Takes milliseconds where packets pass, a second where not.
func Probe(ctx context.Context) error {
	name := fmt.Sprintf("toe-chk%d", os.Getpid())
	files, err := tun.Open(tun.Options{Name: name, Queues: 1})
	if err != nil {
		return err
	}
	defer files[0].Close()
	host := address()
	if err := configure(name, host); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	card := netip.AddrPortFrom(host.Addr().Next(), probePort)
	left := make(chan bool, 1)
	go func() { left <- answerSYN(ctx, int(files[0].Fd()), card) }()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", card.String())
	if err == nil {
		conn.Close()
		<-left
		return nil
	}
	stopped := ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded)
	cancel()
	sent := <-left
	if stopped {
		return context.Canceled
	}
	d := &Dropped{ToCard: !sent}
	d.Chains, _ = Chains(d.ToCard)
	return d
}

// probePort is the destination of the probe, TCP. Nothing listens: the other
// end is this package.
const probePort = 7

// address is a /31 of the range of links (card's linkRange4) that no interface
// of this host has.
func address() netip.Prefix {
	taken := map[string]bool{}
	if all, err := netlink.AddrList(nil, netlink.FAMILY_V4); err == nil {
		for _, a := range all {
			taken[a.IP.String()] = true
		}
	}
	for {
		n := rand.N(1<<15) << 1
		a := netip.AddrFrom4([4]byte{10, 116, byte(n >> 8), byte(n)})
		if !taken[a.String()] {
			return netip.PrefixFrom(a, 31)
		}
	}
}

func configure(name string, host netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		ip := &net.IPNet{IP: host.Addr().AsSlice(), Mask: net.CIDRMask(host.Bits(), 32)}
		err = errors.Join(netlink.AddrAdd(l, &netlink.Addr{IPNet: ip}), netlink.LinkSetUp(l))
	}
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return nil
}

// answerSYN waits for a SYN to the address until ctx ends, answers it, and
// reports whether it has come.
func answerSYN(ctx context.Context, fd int, to netip.AddrPort) (came bool) {
	buf := make([]byte, frame.HeaderLen+1500)
	for ctx.Err() == nil {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(p, 20); n < 1 || err != nil {
			continue
		}
		n, err := unix.Read(fd, buf)
		if err != nil || n < frame.HeaderLen {
			continue
		}
		reply := synACK(buf[frame.HeaderLen:n], to)
		if reply == nil {
			continue
		}
		_, _ = unix.Write(fd, append(make([]byte, frame.HeaderLen), reply...))
		return true
	}
	return false
}
