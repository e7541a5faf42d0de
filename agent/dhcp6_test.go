package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/toe-project/toe/control"
)

// startDnsmasq runs Debian's dnsmasq on a wire: router advertisements, DHCPv6
// and DHCP for a port that hears them.
func startDnsmasq(t *testing.T, wire *space, args ...string) {
	t.Helper()
	program, err := exec.LookPath("dnsmasq")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/dnsmasq"); err != nil {
			t.Skip("dnsmasq is not installed: apt-get install dnsmasq-base")
		}
	}
	cmd := exec.Command(program, append([]string{
		"-k", "-C", "/dev/null", "--port=0", "-i", "srv", "--bind-dynamic", "-u", "root", "--pid-file=",
		"--leasefile-ro", "--enable-ra", "--log-facility=-",
		"--dhcp-option=option6:dns-server,[fe80::],[2001:db8:1::53]", "--dhcp-option=option6:domain-search,lan.example",
	}, args...)...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	wire.in(cmd.Start)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// TestDHCPv6: what a port gets from a real server, by the flags of its router
// advertisements.
func TestDHCPv6(t *testing.T) {
	for name, tt := range map[string]struct {
		args    []string
		address func(netip.Prefix) bool
		lease   bool // an address by DHCPv6
	}{
		"O: stateless": {
			[]string{"--dhcp-range=2001:db8:1::,ra-stateless,64,10m"},
			func(a netip.Prefix) bool { return a.Bits() == 64 && prefix("2001:db8:1::/64").Contains(a.Addr()) }, false,
		},
		"M: stateful": {
			[]string{"--dhcp-range=2001:db8:1::100,2001:db8:1::1ff,64,10m"},
			func(a netip.Prefix) bool { return a.Bits() == 128 && prefix("2001:db8:1::100/120").Contains(a.Addr()) }, true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			wire := newSpace(t)
			cable(t, "cable0", wanMAC, wire, "srv", "")
			wire.address("srv", "2001:db8:1::1/64")
			startDnsmasq(t, wire, tt.args...)
			log := NewLog(t.Output())
			sys := sysctls{"/proc/sys", log}
			sys.late(256 << 20)
			p := newPort(control.Port{Name: "wan", MAC: wanMAC, Addresses: []string{control.RA}}, handle(t), sys, log)
			if err := listenAdvertisements(t.Context(), func(_ int, a *advertisement) { p.advertise(a) }); err != nil {
				t.Fatal(err)
			}
			if err := p.configure(t.Context(), p.wanted()); err != nil {
				t.Fatal(err)
			}
			defer p.remove()
			eventually(t, 20*time.Second, "address, name servers and domain", func() error {
				addrs, gws, _ := p.current(t)
				switch dns := fmt.Sprint(p.dns()); {
				case !slices.ContainsFunc(addrs, tt.address):
					return fmt.Errorf("addresses %v: %v", addrs, p.health())
				case len(gws) == 0:
					return errors.New("no gateway")
				case !strings.Contains(dns, "%wan") || !strings.Contains(dns, "2001:db8:1::53"):
					return fmt.Errorf("dns %s", dns)
				case fmt.Sprint(p.search()) != "[lan.example]":
					return fmt.Errorf("search %v", p.search())
				case p.health().state != healthy:
					return errors.New(p.health().detail)
				}
				p.mu.Lock()
				defer p.mu.Unlock()
				if p.lease6 == nil || p.lease6.address.IsValid() != tt.lease {
					return fmt.Errorf("lease %+v, %v", p.lease6, p.lease6Err)
				}
				return nil
			})
		})
	}
}

// reply6 is a server's REPLY with an address.
func reply6(t testing.TB, address string, preferred, valid, t1, t2 time.Duration, more ...dhcpv6.Option) *dhcpv6.Message {
	t.Helper()
	m, err := dhcpv6.NewMessage()
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType = dhcpv6.MessageTypeReply
	m.AddOption(dhcpv6.OptServerID(&dhcpv6.DUIDLL{LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}))
	ia := &dhcpv6.OptIANA{T1: t1, T2: t2}
	ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(address), PreferredLifetime: preferred, ValidLifetime: valid})
	m.AddOption(ia)
	for _, o := range more {
		m.AddOption(o)
	}
	return m
}

func TestLease6(t *testing.T) {
	const s = time.Second
	bare, err := dhcpv6.NewMessage()
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		m    *dhcpv6.Message
		want string // times, or a part of the error
	}{
		"given times":       {reply6(t, "2001:db8::7", 600*s, 900*s, 200*s, 400*s), "3m20s 6m40s 10m0s 15m0s"},
		"times left to us":  {reply6(t, "2001:db8::7", 600*s, 900*s, 0, 0), "5m0s 8m0s 10m0s 15m0s"},
		"times of nonsense": {reply6(t, "2001:db8::7", 600*s, 900*s, 900*s, 400*s), "5m0s 8m0s 10m0s 15m0s"},
		"no address":        {bare, "no address"},
		"the link's":        {reply6(t, "fd74:6f65::1", 600*s, 900*s, 0, 0), "fd74:6f65::1"},
		"link-local":        {reply6(t, "fe80::1", 600*s, 900*s, 0, 0), "fe80::1"},
		"mapped":            {reply6(t, "192.0.2.1", 600*s, 900*s, 0, 0), "192.0.2.1"},
		"no lifetime":       {reply6(t, "2001:db8::7", 0, 0, 0, 0), "for 0s"},
		"preferred longer":  {reply6(t, "2001:db8::7", 900*s, 600*s, 0, 0), "for 10m0s"},
		"refused": {reply6(t, "2001:db8::7", 600*s, 900*s, 0, 0,
			&dhcpv6.OptStatusCode{StatusCode: 2}), "the server says"},
	} {
		l, err := newLease6(tt.m, 0, true, "wan", linkPrefixes)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprint(l.t1, " ", l.t2, " ", l.preferred, " ", l.valid)
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

// FuzzLease6: no panic, and nothing of the link's, whatever a server sends.
func FuzzLease6(f *testing.F) {
	dns := dhcpv6.OptDNS(net.ParseIP("fe80::1"), net.ParseIP("fd74:6f65::1"))
	f.Add(reply6(f, "2001:db8::7", time.Minute, time.Hour, 0, 0, dns).ToBytes(), true)
	f.Add(reply6(f, "fd74:6f65::1", time.Minute, time.Hour, 0, 0).ToBytes(), true)
	f.Add(reply6(f, "2001:db8::7", time.Minute, time.Hour, 0, 0, dns).ToBytes(), false)
	f.Fuzz(func(t *testing.T, data []byte, managed bool) {
		m, err := dhcpv6.MessageFromBytes(data)
		if err != nil {
			return
		}
		l, err := newLease6(m, 0, managed, "wan", linkPrefixes)
		if err != nil {
			return
		}
		if l.address.IsValid() != managed || within(linkPrefixes, l.address) || l.t1 <= 0 || l.t1 > l.t2 || l.t2 > l.valid {
			t.Fatalf("accepted %+v", l)
		}
		for _, d := range l.dns {
			if within(linkPrefixes, d) || d.IsLinkLocalUnicast() != (d.Zone() == "wan") {
				t.Fatalf("accepted name server %v", d)
			}
		}
	})
}
