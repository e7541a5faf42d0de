package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/feature"
	"github.com/toe-project/toe/offload"
)

// fakeEndpoint remembers what it was told.
type fakeEndpoint struct {
	mu     sync.Mutex
	fail   error // of the next start or change
	starts int
	closed int
	conf   offload.Config
}

func (f *fakeEndpoint) start(c offload.Config) (endpoint, error) {
	if err := f.Configure(c); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starts++
	return f, nil
}

func (f *fakeEndpoint) Configure(c offload.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail; err != nil {
		return err
	}
	f.conf = c
	return nil
}

func (f *fakeEndpoint) Stats() offload.Stats {
	return offload.Stats{
		TCP: offload.TCPStats{Open: 1, Opened: 2, Published: 3, Reset: 4, Drops: map[string]uint64{"queue full": 5}},
		UDP: offload.UDPStats{Flows: 6, Errors: 7},
	}
}

func (f *fakeEndpoint) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	return nil
}

func (f *fakeEndpoint) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *fakeEndpoint) told() (starts, closed int, c offload.Config) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.starts, f.closed, f.conf
}

// fakeStart makes a card whose endpoint is the test's.
func (f *fakeEndpoint) fakeStart(mode string) func(*card) {
	return func(c *card) {
		c.conf.Mode = mode
		c.begin = f.start
	}
}

func (c *card) component(name string) *cardpb.Reason {
	for _, r := range c.status().Components {
		if r.Component == name {
			return r
		}
	}
	return nil
}

func (c *card) awaitOffload(t *testing.T, want health) *cardpb.Reason {
	t.Helper()
	var r *cardpb.Reason
	eventually(t, 5*time.Second, "endpoint mode", func() error {
		links := partOf[*linksPart](c.env)
		links.mu.Lock()
		ready := links.ready
		links.mu.Unlock()
		if ready == 0 {
			return errors.New("the control API does not listen yet")
		}
		if r = c.component("offload"); r == nil || r.State != want {
			return fmt.Errorf("component %v", r)
		}
		return nil
	})
	return r
}

// TestRestOfAKilledAgent: in whatever mode an agent starts, the rules of one
// that was killed in endpoint mode go, before something could meet them.
func TestRestOfAKilledAgent(t *testing.T) {
	needNamespace(t)
	left := &nftables.Table{Family: nftables.TableFamilyINet, Name: "toe-offload"}
	administrators := &nftables.Table{Family: nftables.TableFamilyINet, Name: "own"}
	nft, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range []*nftables.Table{left, administrators} {
		nft.AddTable(table)
	}
	if err := nft.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nft.DelTable(administrators); _ = nft.Flush() })
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Mark = unix.AF_INET, 746, 746, 0x70e0001
	if err := netlink.RuleAdd(rule); err != nil {
		t.Fatal(err)
	}
	f := &fakeEndpoint{}
	startCard(t, f.fakeStart(control.ModeRouter))
	eventually(t, 5*time.Second, "the rest of the agent before", func() error {
		tables, err := nft.ListTablesOfFamily(nftables.TableFamilyINet)
		if err != nil {
			return err
		}
		names := map[string]bool{}
		for _, table := range tables {
			names[table.Name] = true
		}
		rules, err := netlink.RuleList(unix.AF_INET)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Table == 746 }) || names["toe-offload"] || !names["own"] || !names["toe"] {
			return fmt.Errorf("tables %v, rules %v", names, rules)
		}
		return nil
	})
}

// TestEndpointLife: started behind the firewall, followed through changes,
// ended with the card.
func TestEndpointLife(t *testing.T) {
	f := &fakeEndpoint{}
	c := startCard(t, f.fakeStart(control.ModeEndpoint))
	c.awaitOffload(t, healthy)
	starts, _, conf := f.told()
	if starts != 1 || !reflect.DeepEqual(conf.Links, []string{"pci0"}) || !reflect.DeepEqual(conf.Ports, []string{"wan"}) {
		t.Errorf("%d starts with %+v", starts, conf)
	}
	o := c.status().Offload
	if !o.Running || o.Mode != "endpoint" || o.Tcp.Open != 1 || o.Tcp.Reset_ != 4 || o.Tcp.Drops["queue full"] != 5 || o.Udp.Flows != 6 || o.Udp.IcmpErrors != 7 {
		t.Errorf("status: %v", o)
	}

	next := *c.conf
	next.Offload = control.Offload{Offload: feature.Offload{MDNS: true, Bypass: feature.Bypass{TCP: []feature.PortRange{{First: 22, Last: 23}}, DSCP: []feature.DSCP{8}}}}
	next.Publish = []control.Publish{{Protocol: control.TCP, Port: 8080, Link: "pci0",
		To: []netip.AddrPort{netip.MustParseAddrPort(hostIP + ":80"), netip.MustParseAddrPort("[" + host6 + "]:80")}}}
	if what, err := c.Apply(t.Context(), &next); err != nil || len(what) != 2 { // the firewall, too
		t.Fatalf("%v, %v", what, err)
	}
	_, _, conf = f.told()
	want := offload.Config{
		Links: []string{"pci0"}, Ports: []string{"wan"}, Offload: next.Offload.Offload,
		Publish: []offload.Publish{{Protocol: "tcp", Port: 8080, To4: netip.MustParseAddrPort(hostIP + ":80"), To6: netip.MustParseAddrPort("[" + host6 + "]:80")}},
	}
	if !reflect.DeepEqual(conf, want) {
		t.Errorf("configured\n%+v, want\n%+v", conf, want)
	}

	// A refusal leaves everything as it was, the firewall too.
	f.set(errors.New("no such thing"))
	worse := next
	worse.Publish = nil
	if _, err := c.Apply(t.Context(), &worse); err == nil || !strings.Contains(err.Error(), "no such thing") {
		t.Errorf("apply: %v", err)
	}
	f.set(nil)
	if what, err := c.Apply(t.Context(), &next); err != nil || len(what) != 0 {
		t.Errorf("the old configuration is not in force: %v, %v", what, err)
	}

	router := next
	router.Mode, router.Publish = control.ModeRouter, nil
	if _, err := c.Apply(t.Context(), &router); err != nil {
		t.Fatal(err)
	}
	if _, closed, _ := f.told(); closed != 1 || c.component("offload") != nil || c.status().Offload.Running {
		t.Errorf("as a router: %d closed, status %v", closed, c.status().Offload)
	}
	if _, err := c.Apply(t.Context(), &next); err != nil {
		t.Fatal(err)
	}
	c.awaitOffload(t, healthy)
	c.stop()
	eventually(t, 5*time.Second, "the end", func() error {
		if _, closed, _ := f.told(); closed != 2 {
			return fmt.Errorf("closed %d times", closed)
		}
		return nil
	})
}

// TestEndpointThatDoesNotStart: the card routes, says why, and tries again.
func TestEndpointThatDoesNotStart(t *testing.T) {
	f := &fakeEndpoint{fail: errors.New("no queue in this kernel")}
	c := startCard(t, f.fakeStart(control.ModeEndpoint))
	r := c.awaitOffload(t, degraded)
	if r.Detail != "no queue in this kernel; the card routes in the meantime" {
		t.Errorf("said %q", r.Detail)
	}
	eventually(t, 5*time.Second, "a port", func() error {
		if p := c.component("port wan"); p == nil || p.State != healthy {
			return fmt.Errorf("%v", p)
		}
		return nil
	})
	if o := c.status().Offload; o.Running || o.Tcp != nil {
		t.Errorf("status: %v", o)
	}
	f.set(nil)
	c.awaitOffload(t, healthy)
}

// TestPublishedPortsAreOpen: they, of their protocol, and nothing else.
func TestPublishedPortsAreOpen(t *testing.T) {
	r := both
	r.published = []wirePort{{unix.IPPROTO_TCP, 9}, {unix.IPPROTO_UDP, 10}}
	_, wire := crossing(t, r)
	for _, at := range []string{":9", ":10"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close() })
		go echoPeer(ln)
	}
	for _, at := range []string{"192.0.2.2:9", "[2001:db8::2]:9"} {
		eventually(t, 3*time.Second, at, func() error {
			_, err := seenAs(wire, "tcp", at)
			return err
		})
	}
	for _, at := range []string{"192.0.2.2:10", "[2001:db8::2]:10"} {
		if err := wire.refused(at); err != nil {
			t.Errorf("from the wire: %v", err)
		}
	}
	for at, open := range map[string]bool{"192.0.2.2:10": true, "192.0.2.2:9": false} {
		pc, err := net.ListenPacket("udp4", at)
		if err != nil {
			t.Fatal(err)
		}
		c, err := wire.dial("udp4", at)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("hello"))
		_ = pc.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, _, err := pc.ReadFrom(make([]byte, 9)); (err == nil) != open {
			t.Errorf("a datagram to %s: %v, open is %v", at, err, open)
		}
		_, _ = c.Close(), pc.Close()
	}
	if o, n := r, both; o.equal(n) {
		t.Error("what is published makes no difference")
	}
}

// TestMulticastDNSComesIn: where it is relayed, by multicast and from its own
// port.
func TestMulticastDNSComesIn(t *testing.T) {
	for _, relayed := range []bool{true, false} {
		t.Run(fmt.Sprint(relayed), func(t *testing.T) {
			c := &control.Config{Mode: control.ModeEndpoint, NAT: both.nat, Offload: control.Offload{Offload: feature.Offload{MDNS: relayed}}}
			for _, l := range both.links {
				c.Links = append(c.Links, control.Link{Name: l})
			}
			for _, p := range both.ports {
				c.Ports = append(c.Ports, control.Port{Name: p})
			}
			_, wire := crossing(t, rulesOfParts(t, c))
			dev, err := wire.nl.LinkByName("srv")
			if err == nil {
				err = addRoute(wire.nl, dev, route{dst: netip.MustParsePrefix("224.0.0.0/4")})
			}
			if err != nil {
				t.Fatal(err)
			}
			wan, err := net.InterfaceByName("wan")
			if err != nil {
				t.Fatal(err)
			}
			group := &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}
			pc, err := net.ListenMulticastUDP("udp4", wan, group)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = pc.Close() }()
			ask := func(from int, to *net.UDPAddr) bool {
				wire.in(func() error {
					c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(wireIP), Port: from}, to)
					if err != nil {
						return err
					}
					_, err = c.Write([]byte("who is there"))
					return errors.Join(err, c.Close())
				})
				_ = pc.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
				_, _, err := pc.ReadFrom(make([]byte, 99))
				return err == nil
			}
			if got := ask(mdnsPort, group); got != relayed {
				t.Errorf("relayed %v: came in %v", relayed, got)
			}
			if ask(6000, group) {
				t.Errorf("relayed %v: a plain resolver's question came in", relayed)
			}
			if ask(mdnsPort, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 5353}) {
				t.Errorf("relayed %v: a question to the card alone came in", relayed)
			}
		})
	}
}

// TestEndpointSettings: for a card of 256 MiB.
func TestEndpointSettings(t *testing.T) {
	root := t.TempDir()
	want := map[string]string{
		"net/ipv4/tcp_syncookies": "1", "net/ipv4/tcp_tw_reuse": "1", "net/ipv4/tcp_base_mss": "1024",
		"net/ipv4/ip_local_port_range": "1024 65535", "net/ipv4/ip_local_reserved_ports": "7464,7465,8080",
		"net/ipv4/tcp_max_orphans": "65536", "net/ipv4/tcp_max_tw_buckets": "32768",
		"net/ipv4/ipfrag_high_thresh": "16777216",
	}
	for key := range want {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, key)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, key), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := sysctls{root, NewLog(t.Output())}
	s.endpoint(256 << 20)
	s.reservePorts(&control.Config{Publish: []control.Publish{{Port: 8080}, {Port: 8080, Protocol: control.UDP}}})
	for key, value := range want {
		if got, _ := os.ReadFile(filepath.Join(root, key)); string(got) != value {
			t.Errorf("%s is %q, want %q", key, got, value)
		}
	}
	if got := count(64<<20, 4<<10, 16384, 1<<20); got != "16384" {
		t.Errorf("a small card: %s", got)
	}
}

// TestEndpointDoesNotBeginAfterTheEnd: what begins while the card ends would be
// left on it, rules and all.
func TestEndpointDoesNotBeginAfterTheEnd(t *testing.T) {
	f := &fakeEndpoint{}
	o := &offloadPart{env: &env{conf: &control.Config{Mode: control.ModeEndpoint}}, begin: f.start}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o.close()
	if err := o.try(ctx); err != nil {
		t.Error(err)
	}
	if starts, _, _ := f.told(); starts != 0 {
		t.Error("endpoint mode began after its end")
	}
}

// rulesOfParts is what the parts of a card with that configuration ask for.
func rulesOfParts(t *testing.T, c *control.Config) rules {
	t.Helper()
	keys, err := control.GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	e := &env{conf: c, log: NewLog(t.Output())}
	e.opts.Keys = keys
	if e.parts, err = newParts(e); err != nil {
		t.Fatal(err)
	}
	return e.rulesOf(c)
}
