package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/status"
)

// The wire of an endpoint, in both families (RFC 5737, RFC 3849), and
// destinations behind it that do not exist.
const (
	worldAddr6 = "2001:db8::1"
	cardAddr6  = "2001:db8::2"
	noHost     = "203.0.113.9"   // a router says: host unreachable
	noNetwork  = "203.0.113.130" // a router says: network unreachable
	noRoute6   = "2001:db8:bad::9"
	noHost6    = "2001:db8:dead::9" // a router says: address unreachable
	silentPort = "4"                // a firewall in the world drops what comes
	closedPort = "5"
)

// offloaded is a host behind a card in endpoint mode.
type offloaded struct {
	*host
	far string // the namespace of the world
}

// onWire is an endpoint with a world next to it. The wire is the TAP wan0 of the
// world's namespace. extra is appended to the card's specification.
func onWire(t *testing.T, extra string) *offloaded {
	t.Helper()
	h := newHost(t)
	o := &offloaded{host: h, far: h.netns + "w"}
	addNetns(t, o.far)
	addTAP(t, o.far, "wan0", worldAddr+"/24", worldAddr6+"/64")
	deadEnds(t, o.far)
	sysctl(t, o.far, "net/ipv4/ip_forward", "1")
	sysctl(t, o.far, "net/ipv6/conf/all/forwarding", "1")
	sysctl(t, o.far, "net/ipv4/icmp_ratelimit", "0") // each case gets its answer
	sysctl(t, o.far, "net/ipv6/icmp/ratelimit", "0")
	nameServer(t, h.netns, worldAddr)
	o.up(t, "card0", o.cardSpec("endpoint", extra))
	return o
}

func (o *offloaded) cardSpec(mode, extra string) string {
	return fmt.Sprintf(`machine: {kind: uml}
link: {default_route: true}
offload: {mode: %s}
ports:
  - {name: wan, attach: "netns:%s/wan0", addresses: [%s/24, "%s/64"], gateway: [%s, "%s"]}
%s`, mode, o.far, cardAddr, cardAddr6, worldAddr, worldAddr6, extra)
}

// up starts or changes the card.
func (o *offloaded) up(t *testing.T, name, spec string) {
	t.Helper()
	o.run(t, kinds[0].start, 0, "up", name, "-f", o.spec(t, name+".yaml", spec))
	if st := o.status(t, name); st.State != status.Healthy {
		t.Fatalf("card %s is %s: %v", name, st.State, st.Reasons)
	}
}

// mode changes the mode of a running card.
func (o *offloaded) mode(t *testing.T, mode, extra string) {
	t.Helper()
	o.run(t, quick, 0, "apply", "card0", "-f", o.spec(t, "card0.yaml", o.cardSpec(mode, extra)))
	o.await(t, "card0", quick, "mode "+mode, func(st status.Status) error {
		if st.State != status.Healthy || st.Offload.Mode != mode || st.Offload.Running != (mode == "endpoint") {
			return fmt.Errorf("state %s, %+v, %v", st.State, st.Offload, st.Reasons)
		}
		return nil
	})
}

// addTAP makes a port's other end.
func addTAP(t *testing.T, netns, name string, addrs ...string) {
	t.Helper()
	ip(t, "-n", netns, "tuntap", "add", name, "mode", "tap")
	for _, a := range addrs {
		args := []string{"-n", netns, "addr", "add", a, "dev", name}
		if strings.Contains(a, ":") {
			args = append(args, "nodad")
		}
		ip(t, args...)
	}
	ip(t, "-n", netns, "link", "set", name, "up")
}

// deadEnds makes destinations of a namespace that do not exist, and a port that
// is silent.
func deadEnds(t *testing.T, netns string) {
	t.Helper()
	ip(t, "-n", netns, "route", "add", "unreachable", noHost)
	// A Linux router reports such a route of IPv6 like no route at all.
	ip(t, "-n", netns, "route", "add", "unreachable", noHost6)
	rules := "table inet dead { chain in { type filter hook input priority 0; tcp dport " + silentPort + " drop; };" +
		" chain pre { type filter hook prerouting priority 0; ip6 daddr " + noHost6 + " reject with icmpv6 type addr-unreachable; }; }"
	inside(t, netns, "nft", rules)
}

// inside runs a short command in a namespace.
func inside(t testing.TB, netns string, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), quick)
	defer cancel()
	out, err := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", netns}, argv...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

func sysctl(t testing.TB, netns, key, value string) {
	t.Helper()
	if err := inNetns(netns, func() error { return os.WriteFile("/proc/sys/"+key, []byte(value), 0) }); err != nil {
		t.Fatal(err)
	}
}

// onCard runs a command on a card.
func (h *host) onCard(t testing.TB, name string, argv ...string) string {
	t.Helper()
	return h.run(t, quick, 0, append([]string{"ssh", name, "--"}, argv...)...).out
}

// push copies this program to a card, to play a role there.
func (h *host) push(t testing.TB, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	program, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	cmd := h.command(ctx, "ssh", name, "--", "cat > /tmp/self && chmod +x /tmp/self")
	cmd.Stdin = program
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("copy this program to card %s: %v: %s", name, err, out)
	}
}

// tune changes the network of a card that has been pushed to: see roleTune.
func (h *host) tune(t testing.TB, name string, args ...string) {
	t.Helper()
	// Built with cgo, it needs libraries that the card lacks, and the shell prints "not found".
	h.onCard(t, name, "env "+roleVariable+"=tune /tmp/self "+strings.Join(args, " "))
}

// counters are those of /proc/net/snmp, snmp6 and netstat of a namespace, as
// Ip.ReasmReqds or Ip6ReasmReqds.
func counters(t testing.TB, netns string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	err := inNetns(netns, func() error {
		for _, file := range []string{"snmp", "netstat", "snmp6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + file)
			if err != nil {
				return err
			}
			maps.Copy(all, parseCounters(string(text)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// parseCounters reads both forms: two lines, names and values, after "Ip:"; and
// a name and a value a line.
func parseCounters(text string) map[string]int64 {
	all := map[string]int64{}
	var names []string
	for _, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) < 2:
		case !strings.HasSuffix(f[0], ":"):
			all[f[0]], _ = strconv.ParseInt(f[1], 10, 64)
		case len(names) == len(f) && names[0] == f[0]:
			for i := range f[1:] {
				all[strings.TrimSuffix(f[0], ":")+"."+names[i+1]], _ = strconv.ParseInt(f[i+1], 10, 64)
			}
			names = nil
		default:
			names = f
		}
	}
	return all
}

// clean checks that the host has neither seen nor made a fragment, nor seen a bad checksum. Every
// journey of an endpoint ends with it.
func (o *offloaded) clean(t *testing.T) {
	t.Helper()
	c := counters(t, o.netns)
	for _, name := range []string{
		"Ip.ReasmReqds", "Ip.FragCreates", "Ip6ReasmReqds", "Ip6FragCreates",
		"Tcp.InCsumErrors", "Udp.InCsumErrors", "Udp6InCsumErrors",
	} {
		if n, ok := c[name]; !ok || n != 0 {
			t.Errorf("%s of the host is %d (known: %t), want 0", name, n, ok)
		}
	}
	t.Logf("the host sent %d segments, %d of them again, %d of those SYN", c["Tcp.OutSegs"], c["Tcp.RetransSegs"], c["TcpExt.TCPSynRetrans"])
}

// scale is a size that is small by default; `test/run full` gives the full one.
func scale(small, full int) int {
	if os.Getenv("TOE_E2E_FULL") != "" {
		return full
	}
	return small
}

// manyFiles raises this program's limit to the descriptors of thousands of connections.
func manyFiles(t *testing.T, n int) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	want := uint64(n)
	if before.Cur >= want {
		return
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: want, Max: max(want, before.Max)}); err != nil {
		t.Fatalf("%d open files: %v", n, err)
	}
	t.Cleanup(func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &before) })
}

// procFile is a file of /proc on a card, as numbers by name.
func (h *host) procFile(t testing.TB, name, file string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	for _, line := range strings.Split(h.onCard(t, name, "cat", filepath.Join("/proc", file)), "\n") {
		if f := strings.Fields(line); len(f) > 1 {
			if v, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				all[strings.TrimSuffix(f[0], ":")] = v
			}
		}
	}
	return all
}
