package offload

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/offload/loop"
)

// place is a network namespace with a thread in it.
type place struct {
	t   *testing.T
	tid int
	do  chan func()
}

func newPlace(t *testing.T) *place {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	p := newThread(t, func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	p.ip("link set lo up")
	return p
}

// beside is another thread in the same namespace.
func (p *place) beside() *place {
	p.t.Helper()
	return newThread(p.t, func() error {
		ns, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", p.tid))
		if err != nil {
			return err
		}
		defer ns.Close()
		return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
	})
}

func newThread(t *testing.T, enter func() error) *place {
	t.Helper()
	p := &place{t: t, do: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		p.tid = unix.Gettid()
		ready <- enter()
		for f := range p.do {
			f()
		}
	}()
	t.Cleanup(func() { close(p.do) })
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	return p
}

// in runs f in the namespace. Sockets and processes that it makes stay there.
func (p *place) in(f func() error) {
	p.t.Helper()
	done := make(chan error)
	p.do <- func() { done <- f() }
	if err := <-done; err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) run(name string, args ...string) {
	p.t.Helper()
	p.in(func() error {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
		}
		return nil
	})
}

func (p *place) ip(command string) {
	p.t.Helper()
	p.run("ip", strings.Fields(command)...)
}

func (p *place) set(key, value string) {
	p.t.Helper()
	p.in(func() error { return os.WriteFile("/proc/sys/net/"+key, []byte(value), 0) })
}

// snmp reads a counter of the namespace, of IPv4 (/proc/net/snmp).
func (p *place) snmp(group, name string) (value int) {
	p.t.Helper()
	p.in(func() error {
		all, err := os.ReadFile("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(string(all)) {
			fields := strings.Fields(line)
			if fields[0] != group+":" {
				continue
			}
			for i, n := range names {
				if n == name {
					value, err = strconv.Atoi(fields[i])
					return err
				}
			}
			names = fields
		}
		return fmt.Errorf("no counter %s of %s", name, group)
	})
	return value
}

// listen makes a socket for datagrams that ends with the test.
func (p *place) listen(address string) *net.UDPConn {
	p.t.Helper()
	return p.socket(func() (*net.UDPConn, error) {
		return net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	})
}

func (p *place) dial(address string) *net.UDPConn {
	p.t.Helper()
	return p.socket(func() (*net.UDPConn, error) {
		return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	})
}

func (p *place) socket(open func() (*net.UDPConn, error)) (c *net.UDPConn) {
	p.t.Helper()
	p.in(func() (err error) { c, err = open(); return })
	p.t.Cleanup(func() { c.Close() })
	_ = c.SetReadBuffer(4 << 20)
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// echo answers at a port until the test ends.
func (p *place) echo(port int) *net.UDPConn {
	p.t.Helper()
	c := p.listen(fmt.Sprintf("[::]:%d", port))
	_ = c.SetDeadline(time.Time{})
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteToUDPAddrPort(buf[:n], from)
			}
		}
	}()
	return c
}

// trial is a host, a card with the UDP part of endpoint mode, and a world.
type trial struct {
	host, card, world *place
	loop              *loop.Loop
	udp               *udp
}

// Addresses of a trial.
const (
	hostAddr4, hostAddr6   = "10.9.0.1", "fd09::1"
	cardAddr4, cardAddr6   = "192.0.2.2", "2001:db8::2"
	worldAddr4, worldAddr6 = "192.0.2.1", "2001:db8::1"
)

func newTrial(t *testing.T, conf Config) *trial {
	t.Helper()
	r := &trial{host: newPlace(t), card: newPlace(t), world: newPlace(t)}
	join := func(p *place, name, peer string, mtu int, ours, theirs []string) {
		r.card.ip(fmt.Sprintf("link add %s mtu %d type veth peer name %s mtu %d netns %d", name, mtu, peer, mtu, p.tid))
		r.card.ip("link set " + name + " up")
		p.ip("link set " + peer + " up")
		for i := range ours {
			r.card.ip("addr add " + ours[i] + " dev " + name + nodad(ours[i]))
			p.ip("addr add " + theirs[i] + " dev " + peer + nodad(theirs[i]))
		}
	}
	join(r.host, "pci0", "toe0", 65535, []string{"10.9.0.2/30", "fd09::2/126"}, []string{hostAddr4 + "/30", hostAddr6 + "/126"})
	join(r.world, "wan", "eth0", 1500, []string{cardAddr4 + "/24", cardAddr6 + "/64"}, []string{worldAddr4 + "/24", worldAddr6 + "/64"})
	r.host.ip("route add default via 10.9.0.2 mtu lock 65535")
	r.host.ip("route add default via fd09::2 mtu lock 65535")
	r.card.set("ipv4/ip_forward", "1")
	r.card.set("ipv6/conf/all/forwarding", "1")
	conf.Links, conf.Ports = []string{"pci0"}, []string{"wan"}
	r.start(t, conf)
	return r
}

func nodad(address string) string {
	if strings.Contains(address, ":") {
		return " nodad"
	}
	return ""
}

func (r *trial) start(t *testing.T, conf Config) {
	t.Helper()
	engine := r.card.beside()
	engine.in(func() (err error) {
		if r.loop, err = loop.New(); err != nil {
			return err
		}
		if r.udp, err = newUDP(r.loop, conf, t.Logf); err != nil {
			return err
		}
		return addPolicy()
	})
	r.card.nft(udpRules(conf))
	engine.do <- r.loop.Run
	t.Cleanup(func() {
		r.loop.Do(r.udp.close)
		r.loop.Stop()
	})
}

// udpRules are the rules of rules.go for UDP: the kernel of a test machine may lack what TCP needs
// (nfnetlink_queue).
func udpRules(conf Config) string {
	answers := ""
	if conf.Preserve {
		answers = `iifname "wan" socket transparent 1 meta mark set $local accept`
	}
	return fmt.Sprintf(`
define local = %#x
define own = %#x
table inet toe-offload {
	chain take {
		type filter hook prerouting priority raw
		%s
		iifname != "pci0" return
		meta l4proto {udp, icmp, icmpv6} socket transparent 1 notrack meta mark set $local accept
		meta l4proto != udp return
		ip daddr {10.9.0.0/30, 192.0.2.2, 224.0.0.0/3} return
		ip6 daddr {fd09::/126, 2001:db8::2, fe80::/10, ff00::/8} return
		ip frag-off & 0x4000 != 0 return
		notrack
		meta nfproto ipv4 meta l4proto udp tproxy ip to 127.0.0.1:%[4]d meta mark set $local accept
		meta nfproto ipv6 meta l4proto udp tproxy ip6 to [::1]:%[4]d meta mark set $local accept
	}
	chain own {
		type filter hook output priority raw
		meta mark $own notrack
	}
}
`, markLocal, markOwn, answers, proxyPort)
}

func (p *place) nft(rules string) {
	p.t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		p.t.Skip("needs nft")
	}
	p.in(func() error {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %s%s", err, out, rules)
		}
		return nil
	})
}

func (r *trial) stats() (s UDPStats) {
	r.loop.Do(func() { s = r.udp.stats() })
	return s
}
