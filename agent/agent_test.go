package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/offload"
)

// fakeFirewall refuses what a test wants refused.
type fakeFirewall struct {
	firewall
	mu     sync.Mutex
	refuse string // a port's name
	fail   error
}

func (f *fakeFirewall) apply(r rules) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil || f.refuse != "" && slices.Contains(r.ports, f.refuse) {
		return errors.Join(f.fail, errors.New("refused by the test"))
	}
	return f.firewall.apply(r)
}

// card is a whole agent between a host and a wire with a DHCP server.
type card struct {
	*Agent
	conf       *control.Config
	keys       control.Keys
	host, wire *space
	dhcp       *dhcpServer
	fire       *fakeFirewall
	names      []string
	resolv     string
	done       chan Action
	stop       context.CancelFunc
	begin      func(offload.Config) (endpoint, error) // of endpoint mode
}

const spareMAC = "02:00:00:00:01:02"

func startCard(t *testing.T, change ...func(*card)) *card {
	t.Helper()
	c := &card{host: newSpace(t), wire: newSpace(t), done: make(chan Action, 1), resolv: filepath.Join(t.TempDir(), "resolv.conf")}
	// On the host's end, too, the address is constant and nothing asks for it.
	cable(t, "eth0", hostMAC, c.host, "toe0", control.LinkMAC)
	cable(t, "eth1", wanMAC, c.wire, "srv", "")
	cable(t, "eth2", spareMAC, c.wire, "srv2", "")
	dev, err := c.host.nl.LinkByName("toe0")
	if err == nil {
		err = errors.Join(c.host.nl.LinkSetARPOff(dev), c.host.nl.LinkSetMTU(dev, control.LinkMTU))
	}
	if err != nil {
		t.Fatal(err)
	}
	c.host.address("toe0", hostIP+"/31")
	c.host.address("toe0", host6+"/127")
	c.wire.address("srv", "192.0.2.1/24")
	c.dhcp = startDHCP(c.wire, "srv")
	if c.keys, err = control.GenerateKeys(); err != nil {
		t.Fatal(err)
	}
	c.conf = &control.Config{
		Name: "edge", Mode: control.ModeRouter, NAT: true, Firmware: "f1",
		Links: []control.Link{{
			Name: "pci0", MAC: hostMAC,
			Card: []netip.Prefix{prefix(cardIP + "/31"), prefix(card6 + "/127")},
			Host: []netip.Addr{netip.MustParseAddr(hostIP), netip.MustParseAddr(host6)},
		}},
		Ports: []control.Port{{Name: "wan", MAC: wanMAC, Addresses: []string{control.DHCP}}},
	}
	log := NewLog(t.Output())
	c.fire = &fakeFirewall{firewall: nftFirewall{}}
	for _, f := range change {
		f(c)
	}
	c.Agent, err = New(Options{
		Config: c.conf, Keys: c.keys, Version: "test", Log: log, Sysctl: "/proc/sys", Resolv: c.resolv,
		SetHostname: func(n string) error { c.names = append(c.names, n); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	partOf[*firewallPart](c.env).kernel = c.fire
	if c.begin != nil {
		partOf[*offloadPart](c.env).begin = c.begin
	}
	ctx, cancel := context.WithCancel(t.Context())
	c.stop = cancel
	go func() {
		action, err := c.Run(ctx)
		if err != nil {
			t.Error(err)
		}
		c.done <- action
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-c.done:
		case <-time.After(10 * time.Second):
			t.Error("the agent did not end within 10 s")
		}
		dropTable()
	})
	return c
}

// client calls the card from the host's namespace.
func (c *card) client(t *testing.T, addr string, keys control.Keys) *control.Client {
	t.Helper()
	client, err := control.Dial(netip.AddrPortFrom(netip.MustParseAddr(addr), control.APIPort), keys, c.host.dialContext)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func (c *card) awaitHealthy(t *testing.T) *cardpb.StatusResponse {
	t.Helper()
	client := c.client(t, cardIP, c.keys)
	var s *cardpb.StatusResponse
	eventually(t, 8*time.Second, "health", func() (err error) {
		s, err = client.Status(t.Context(), &cardpb.StatusRequest{HostTimeUnixNano: time.Now().UnixNano()})
		if err == nil && s.Health != healthy {
			err = fmt.Errorf("%v: %v", s.Health, s.Reasons)
		}
		return
	})
	return s
}

func TestCard(t *testing.T) {
	c := startCard(t)
	s := c.awaitHealthy(t)
	if s.Name != "edge" || s.AgentVersion != "test" || s.FirmwareVersion != "f1" || s.Kernel == "" || s.Memory.GetTotal() == 0 {
		t.Errorf("status %v", s)
	}
	if !slices.Equal(s.DnsServers, []string{"192.0.2.53"}) {
		t.Errorf("dns %v", s.DnsServers)
	}
	link, wan := s.Interfaces[0], s.Interfaces[1]
	if link.Mtu != control.LinkMTU || !link.Carrier || !slices.Contains(link.Addresses, card6+"/127") {
		t.Errorf("link %v", link)
	}
	if !slices.Contains(wan.Addresses, "192.0.2.77/24") || !slices.Contains(wan.Gateways, "192.0.2.1") || wan.Kind != "port" {
		t.Errorf("wan %v", wan)
	}
	if data, err := os.ReadFile(c.resolv); err != nil || !strings.Contains(string(data), "nameserver 192.0.2.53\n") || !strings.Contains(string(data), "search example.org\n") {
		t.Errorf("resolv.conf %q, %v", data, err)
	}
	if _, err := c.client(t, card6, c.keys).Status(t.Context(), &cardpb.StatusRequest{}); err != nil {
		t.Errorf("over IPv6: %v", err)
	}
	others, err := control.GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	others.CA = c.keys.CA
	if _, err := c.client(t, cardIP, others).Status(t.Context(), &cardpb.StatusRequest{}); err == nil {
		t.Error("another card's host was let in")
	}
	// None of the services answers on the wire.
	c.wire.route("srv", "10.116.0.0/31", "192.0.2.77")
	for _, at := range []string{"192.0.2.77:7464", "192.0.2.77:22", "192.0.2.77:53", cardIP + ":7464", cardIP + ":22"} {
		if err := c.wire.refused(at); err != nil {
			t.Errorf("on the wire: %v", err)
		}
	}
}

func TestCardLogs(t *testing.T) {
	c := startCard(t)
	c.awaitHealthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	stream, err := c.client(t, cardIP, c.keys).Logs(ctx, &cardpb.LogsRequest{Follow: true, Tail: 1})
	if err != nil {
		t.Fatal(err)
	}
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	c.log.Printf("later")
	for stream.Receive() {
		if stream.Msg().Text == "later" {
			return
		}
	}
	t.Errorf("the later line did not come: %v", stream.Err())
}

func TestCardReboot(t *testing.T) {
	c := startCard(t)
	c.awaitHealthy(t)
	if _, err := c.client(t, cardIP, c.keys).Reboot(t.Context(), &cardpb.RebootRequest{}); err != nil {
		t.Errorf("reboot: %v", err)
	}
	select {
	case action := <-c.done:
		if action != Reboot {
			t.Errorf("ended with %q", action)
		}
		c.done <- action
	case <-time.After(5 * time.Second):
		t.Fatal("goes on")
	}
	c.dhcp.change(func(d *dhcpServer) {
		if len(d.released) != 1 {
			t.Errorf("leases given back: %v", d.released)
		}
	})
}

// next is a changed copy of the configuration in force.
func (c *card) next(change func(*control.Config)) *control.Config {
	n := *c.conf
	n.Ports = slices.Clone(c.conf.Ports)
	change(&n)
	return &n
}

func (c *card) apply(t *testing.T, conf *control.Config) ([]string, error) {
	t.Helper()
	data, err := conf.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.client(t, cardIP, c.keys).Apply(t.Context(), &cardpb.ApplyRequest{Config: data})
	if err != nil {
		return nil, err
	}
	return r.Changes, nil
}

func TestApplyNothing(t *testing.T) {
	c := startCard(t)
	c.awaitHealthy(t)
	if changes, err := c.apply(t, c.conf); err != nil || len(changes) != 0 {
		t.Errorf("changes %v, %v; want none", changes, err)
	}
}

// TestApplyDifference: a second port, static and with its own name server,
// comes; the first keeps its lease; then the second goes.
func TestApplyDifference(t *testing.T) {
	c := startCard(t)
	c.awaitHealthy(t)
	lan := control.Port{
		Name: "lan", MAC: spareMAC, MTU: 1400, Addresses: []string{"198.51.100.2/24"},
		Gateway: []netip.Addr{netip.MustParseAddr("198.51.100.1")}, DNS: []netip.Addr{netip.MustParseAddr("198.51.100.53")},
	}
	changes, err := c.apply(t, c.next(func(n *control.Config) {
		n.Hostname = "other"
		n.Ports = append(n.Ports, lan)
	}))
	if err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(changes, "; "); !strings.Contains(all, "port lan added") || strings.Contains(all, "wan changed") || len(changes) != 3 {
		t.Errorf("changes %q", all)
	}
	s := c.awaitHealthy(t)
	if s.Hostname != "other" || !slices.Equal(c.names, []string{"edge", "other"}) {
		t.Errorf("host name %s, set %v", s.Hostname, c.names)
	}
	if !slices.Equal(s.DnsServers, []string{"192.0.2.53", "198.51.100.53"}) {
		t.Errorf("dns %v", s.DnsServers)
	}
	got := s.Interfaces[2]
	if got.Mtu != 1400 || !slices.Contains(got.Addresses, "198.51.100.2/24") || !slices.Equal(got.Gateways, []string{"198.51.100.1"}) {
		t.Errorf("lan %v", got)
	}
	if !slices.Equal(s.Interfaces[1].Gateways, []string{"192.0.2.1"}) {
		t.Errorf("wan lost its gateway: %v", s.Interfaces[1])
	}
	c.dhcp.change(func(d *dhcpServer) {
		if d.requests != 1 || len(d.released) != 0 {
			t.Errorf("%d requests, %v released: wan was touched", d.requests, d.released)
		}
	})
	if _, err := c.apply(t, c.conf); err != nil {
		t.Fatal(err)
	}
	if s := c.awaitHealthy(t); len(s.Interfaces) != 2 || s.Hostname != "edge" {
		t.Errorf("after going back: %v", s)
	}
	dev, err := findDevice(c.nl, spareMAC)
	if err != nil {
		t.Fatal(err)
	}
	if left := addresses(c.nl, dev); len(left) != 0 {
		t.Errorf("lan has %v left", left)
	}
}

// TestApplyRollback has a change that fails at every place; afterwards
// everything is as it was, and it is said what failed.
func TestApplyRollback(t *testing.T) {
	c := startCard(t)
	before := c.awaitHealthy(t)
	tests := map[string]struct {
		change func(*control.Config)
		refuse string
		want   string
	}{
		"no such device": {
			func(n *control.Config) {
				n.Hostname = "other"
				n.Ports[0].Addresses = []string{control.DHCP, "198.51.100.9/24"}
				n.Ports = append(n.Ports, control.Port{Name: "lan", MAC: "02:00:00:00:09:09"})
			}, "", "port lan added: MAC 02:00:00:00:09:09: no device",
		},
		"firewall refuses": {
			func(n *control.Config) {
				n.Hostname = "other"
				n.Ports = append(n.Ports, control.Port{Name: "lan", MAC: spareMAC})
			}, "lan", "refused by the test",
		},
		"port removed, then MTU refused": {
			func(n *control.Config) {
				n.Ports = []control.Port{{Name: "lan", MAC: spareMAC, MTU: 65535, Addresses: []string{"198.51.100.9/24"}}, {Name: "wan", MAC: "02:00:00:00:09:09"}}
			}, "", "port wan added",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c.fire.mu.Lock()
			c.fire.refuse = tt.refuse
			c.fire.mu.Unlock()
			if _, err := c.apply(t, c.next(tt.change)); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			c.fire.mu.Lock()
			c.fire.refuse = ""
			c.fire.mu.Unlock()
			after := c.awaitHealthy(t)
			if after.Hostname != before.Hostname || len(after.Interfaces) != len(before.Interfaces) ||
				!slices.Equal(after.Interfaces[1].Addresses, before.Interfaces[1].Addresses) ||
				!slices.Equal(after.Interfaces[1].Gateways, before.Interfaces[1].Gateways) ||
				!slices.Equal(after.DnsServers, before.DnsServers) {
				t.Errorf("before %v\nafter %v", before, after)
			}
			if changes, err := c.apply(t, c.conf); err != nil || len(changes) != 0 {
				t.Errorf("the old configuration is not in force: %v, %v", changes, err)
			}
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	c := startCard(t)
	c.awaitHealthy(t)
	_, err := c.apply(t, c.next(func(n *control.Config) {
		n.Links = slices.Clone(n.Links)
		n.Links[0].MAC = "02:00:00:00:00:07"
	}))
	if err == nil || !strings.Contains(err.Error(), "restart the card") {
		t.Errorf("changed links: %v", err)
	}
	if _, err = c.apply(t, c.next(func(n *control.Config) { n.Mode = "magic" })); err == nil || !strings.Contains(err.Error(), "magic") {
		t.Errorf("unknown mode: %v", err)
	}
}

// TestFirewallFirst: without a firewall the ports stay down, the card says
// so, and its host reaches it all the same.
func TestFirewallFirst(t *testing.T) {
	c := startCard(t, func(c *card) { c.fire.fail = errors.New("no nf_tables") })
	client := c.client(t, cardIP, c.keys)
	eventually(t, 5*time.Second, "reason", func() error {
		s, err := client.Status(t.Context(), &cardpb.StatusRequest{})
		if err == nil && (s.Health != degraded || !strings.Contains(fmt.Sprint(s.Reasons), "no nf_tables")) {
			err = fmt.Errorf("%v: %v", s.Health, s.Reasons)
		}
		return err
	})
	if _, err := c.nl.LinkByName("wan"); err == nil {
		t.Error("the port was touched before there was a firewall")
	}
	if _, err := c.apply(t, c.next(func(n *control.Config) { n.Hostname = "x" })); err == nil {
		t.Error("a change was applied without a firewall")
	}
	c.fire.mu.Lock()
	c.fire.fail = nil
	c.fire.mu.Unlock()
	c.awaitHealthy(t)
}

// TestLateDevice: a link whose device comes after the agent.
func TestLateDevice(t *testing.T) {
	needNamespace(t)
	host := newSpace(t)
	conf := control.Link{Name: "pci0", MAC: "02:00:00:00:00:33", Card: []netip.Prefix{prefix(cardIP + "/31")}}
	l := newLink(conf, handle(t), sysctls{"/proc/sys", NewLog(t.Output())})
	if err := l.up(); !errors.Is(err, errNoDevice) {
		t.Fatalf("up without a device: %v", err)
	}
	if h := l.health(); h.state != degraded || !strings.Contains(h.detail, "no device") {
		t.Errorf("health %v", h)
	}
	up := make(chan bool, 1)
	go func() { up <- l.keepTrying(t.Context(), l.sys.log) }()
	time.Sleep(50 * time.Millisecond)
	cable(t, "eth9", "02:00:00:00:00:33", host, "toe0", "")
	select {
	case ok := <-up:
		if h := l.health(); !ok || h.state != healthy {
			t.Errorf("up %v, health %v", ok, h)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the device was not noticed")
	}
	if err := l.up(); err != nil {
		t.Errorf("a second time: %v", err)
	}
	t.Cleanup(func() {
		if dev, err := l.nl.LinkByName("pci0"); err == nil {
			_ = l.nl.LinkDel(dev)
		}
	})
}
