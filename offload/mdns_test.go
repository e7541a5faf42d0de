package offload

import (
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/feature"
)

// member is a socket of multicast DNS on an interface.
func (p *place) member(device, group string) *net.UDPConn {
	p.t.Helper()
	return p.socket(func() (*net.UDPConn, error) {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return nil, err
		}
		c, err := net.ListenMulticastUDP("udp", dev, &net.UDPAddr{IP: net.ParseIP(group), Port: mdnsPort})
		if err != nil {
			return nil, err
		}
		raw, err := c.SyscallConn()
		if err != nil {
			return nil, err
		}
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVTTL, 1)
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MULTICAST_LOOP, 0)
			_ = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_MULTICAST_LOOP, 0)
		})
		return c, nil
	})
}

// hear returns the next message, or "" where none comes in a while.
func hear(t *testing.T, c *net.UDPConn, wait time.Duration) string {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(wait))
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

func TestMulticastDNSRelay(t *testing.T) {
	r := newTrial(t, Config{Offload: feature.Offload{MDNS: true}})
	for _, c := range []struct {
		group string
		six   bool
	}{{"224.0.0.251", false}, {"ff02::fb", true}} {
		host, world := r.host.member("toe0", c.group), r.world.member("eth0", c.group)
		to := &net.UDPAddr{IP: net.ParseIP(c.group), Port: mdnsPort}
		zone := func(p *place, device string) (number string) {
			if !c.six {
				return ""
			}
			p.in(func() error { // a name would be looked up elsewhere
				dev, err := net.InterfaceByName(device)
				if err == nil {
					number = strconv.Itoa(dev.Index)
				}
				return err
			})
			return number
		}
		say := func(from *net.UDPConn, text, zone string) {
			t.Helper()
			to.Zone = zone
			if _, err := from.WriteToUDP([]byte(text), to); err != nil {
				t.Fatal(err)
			}
		}
		// The card checks its interfaces, and joins, every second. An interface has no IPv6 address in
		// its first seconds.
		until(t, "an address", func() bool {
			to.Zone = zone(r.world, "eth0")
			_, err := world.WriteToUDP([]byte("x"), to)
			return err == nil
		})
		until(t, "a question to get through", func() bool {
			say(host, fmt.Sprintf("%s? a question %d", c.group, time.Now().UnixNano()), zone(r.host, "toe0"))
			return hear(t, world, 100*time.Millisecond) != ""
		})
		say(world, c.group+" an answer", zone(r.world, "eth0"))
		if got := hear(t, host, time.Second); got != c.group+" an answer" {
			t.Errorf("the host hears %q", got)
		}
		if got := hear(t, world, 100*time.Millisecond); got != "" {
			t.Errorf("%q comes back to the world", got)
		}
		say(world, c.group+" an answer", zone(r.world, "eth0"))
		if got := hear(t, host, 100*time.Millisecond); got != "" {
			t.Errorf("%q is relayed twice in a second: loops would go on", got)
		}
		host.Close()
		world.Close()
	}
}

func TestMulticastDNSIsBounded(t *testing.T) {
	r := newTrial(t, Config{Offload: feature.Offload{MDNS: true}})
	host, world := r.host.member("toe0", "224.0.0.251"), r.world.member("eth0", "224.0.0.251")
	to := &net.UDPAddr{IP: net.ParseIP("224.0.0.251"), Port: mdnsPort}
	for i := range 3 * mdnsBurst {
		_, _ = world.WriteToUDP(fmt.Appendf(nil, "message number %d", i), to)
	}
	until(t, "drops", func() bool { return r.stats().Drops[dropMulticast] > 0 })
	n := 0
	for hear(t, host, 200*time.Millisecond) != "" {
		n++
	}
	if n < mdnsBurst/2 || n > mdnsBurst+2*mdnsRate {
		t.Errorf("%d messages of a burst of %d are relayed, want about %d", n, 3*mdnsBurst, mdnsBurst)
	}
}
