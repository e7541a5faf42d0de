package offload

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/feature"
	"github.com/toe-project/toe/internal/nft"
)

// chains puts some chains of the real rules into force, behind those that a
// trial has.
func (r *trial) chains(t *testing.T, fill func(ruler)) {
	t.Helper()
	r.card.in(func() error {
		return nft.Replace("trial", func(table nft.Table) { fill(ruler{table}) })
	})
}

// forge sends a datagram with a forged source address.
func (p *place) forge(from, to string) {
	p.t.Helper()
	p.in(func() error {
		source, target := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
		family := familyOf(source.Addr())
		fd, err := newSocket(family, unix.SOCK_DGRAM, transparent(family))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return errors.Join(unix.Bind(fd, sockaddr(source)), unix.Sendto(fd, []byte("x"), 0, sockaddr(target)))
	})
}

// TestForgedSourcesOfTheWire: packets from the wire with a source address of the host or the card
// do not reach a published service. A datagram from the card's own address would loop on the card
// until all tables are full.
func TestForgedSourcesOfTheWire(t *testing.T) {
	conf := published(false)
	r := newTrial(t, conf)
	conf.Links, conf.Ports = []string{"pci0"}, []string{"wan"}
	r.chains(t, func(u ruler) { u.wire(conf) })
	r.card.ip("addr add 2001:db8::3/64 dev wan nodad")
	hosts := []*net.UDPConn{r.host.listen(at(hostAddr4, 5353)), r.host.listen(at(hostAddr6, 5353))}
	buf := make([]byte, 10)
	for i, card := range []string{cardAddr4, cardAddr6} { // the world learns the way, too
		_, _ = r.world.dial(at(card, 53)).Write([]byte("x"))
		if _, _, err := hosts[i].ReadFromUDPAddrPort(buf); err != nil {
			t.Fatal(err)
		}
	}
	for _, from := range []string{hostAddr6, "fd09::2", "2001:db8::3", hostAddr4, "10.9.0.2"} {
		to := cardAddr6
		if netip.MustParseAddr(from).Is4() {
			to = cardAddr4
		}
		r.world.forge(at(from, 4444), at(to, 53))
	}
	for _, h := range hosts {
		_ = h.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, from, err := h.ReadFromUDPAddrPort(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the host hears %s, %v", from, err)
		}
	}
	if s := r.stats(); s.Opened != 2 {
		t.Errorf("%d flows, want those of the two that do not lie", s.Opened)
	}
}

// TestForgedSourcesOfALink: what IPv4 has strict reverse path filtering for.
func TestForgedSourcesOfALink(t *testing.T) {
	conf := Config{Links: []string{"pci0"}}
	r := newTrial(t, conf)
	r.chains(t, func(u ruler) {
		c := u.base("take", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
		c.Add(nft.In("pci0"), notFrom6("pci0"), nft.Drop)
	})
	world := r.world.listen(at(worldAddr6, 9))
	r.host.forge(at(cardAddr6, 4444), at(worldAddr6, 9))
	r.host.forge("[2001:db8:1::1]:4444", at(worldAddr6, 9))
	honest := r.host.listen(at(hostAddr6, 4445))
	_, _ = honest.WriteToUDPAddrPort([]byte("y"), netip.MustParseAddrPort(at(worldAddr6, 9)))
	buf := make([]byte, 10)
	if _, from, err := world.ReadFromUDPAddrPort(buf); err != nil || from.Port() != 4445 {
		t.Errorf("the world hears %s first, %v, want the honest one", from, err)
	}
}

// full replaces the rules of a trial with the real ones. SYNs are dropped: the kernel of a test
// machine may lack nfnetlink_queue.
func (r *trial) full(t *testing.T, conf Config) {
	t.Helper()
	conf.Links, conf.Ports = []string{"pci0"}, []string{"wan"}
	r.card.nft("delete table inet toe-offload")
	r.chains(t, func(u ruler) { u.all(conf, nft.Drop) })
}

// TestOwnWayOfADatagram: datagrams that must bypass the card's sockets do so, also when the card
// has a socket for their remote because of another program.
func TestOwnWayOfADatagram(t *testing.T) {
	conf := Config{Offload: feature.Offload{Bypass: feature.Bypass{DSCP: []feature.DSCP{8}}}}
	r := newTrial(t, conf)
	r.full(t, conf)
	r.world.ip("route add 10.9.0.0/30 via " + cardAddr4)
	r.world.ip("route add fd09::/126 via " + cardAddr6)
	for _, c := range []struct{ host, remote, card string }{{hostAddr4, worldAddr4, cardAddr4}, {hostAddr6, worldAddr6, cardAddr6}} {
		world := r.world.listen(at(c.remote, 9))
		hears := func(what, want string) {
			t.Helper()
			buf := make([]byte, 10)
			if _, from, err := world.ReadFromUDPAddrPort(buf); err != nil || from.Addr().String() != want {
				t.Errorf("%s comes from %s, %v, want %s", what, from, err, want)
			}
		}
		_, _ = r.host.dial(at(c.remote, 9)).Write([]byte("x"))
		hears("what the card serves", c.card)
		marked := r.host.dial(at(c.remote, 9))
		setClass(t, marked, 8<<2)
		_, _ = marked.Write([]byte("x"))
		hears("what has the mark", c.host)
		near := r.host.dial(at(c.remote, 9))
		setHops(t, near, 5)
		_, _ = near.Write([]byte("x"))
		hears("what may take few hops", c.host)
		if c.card == cardAddr6 {
			continue // IPv6 has no DF
		}
		asking := r.host.dial(at(c.remote, 9))
		setDF(t, asking, true)
		for range 2 {
			_, _ = asking.Write([]byte("x"))
			hears("what asks for the path's MTU", c.host)
		}
		served := r.host.dial(at(c.remote, 9))
		for _, df := range []bool{false, true, false, true} {
			setDF(t, served, df)
			_, _ = served.Write([]byte("x"))
			hears("what was served from the beginning", c.card)
		}
	}
}

// setDF: what it is without is what sockets have on a route with a locked MTU.
func setDF(t *testing.T, c *net.UDPConn, on bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	value := map[bool]int{true: unix.IP_PMTUDISC_DO, false: unix.IP_PMTUDISC_DONT}[on]
	if err2 := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MTU_DISCOVER, value) }); err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
}

func setHops(t *testing.T, c *net.UDPConn, hops int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	level, name := unix.SOL_IP, unix.IP_TTL
	if c.RemoteAddr().(*net.UDPAddr).IP.To4() == nil {
		level, name = unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS
	}
	if err2 := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, hops) }); err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
}
