package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
)

// TestAttach carries traffic through a port on a bridge of the host and one on
// a macvtap. The wire is lan0, whose other end is in the world.
func TestAttach(t *testing.T) {
	for _, c := range []struct {
		attach string
		make   [][]string // the device that lan0 becomes part of
	}{
		{"bridge:br0", [][]string{
			{"link", "add", "name", "br0", "type", "bridge"},
			{"link", "set", "lan0", "master", "br0"},
			{"link", "set", "br0", "up"},
		}},
		{"macvtap:lan0", nil},
	} {
		t.Run(c.attach, func(t *testing.T) {
			h := newHost(t)
			needsKind(t, c.attach)
			far := h.netns + "w"
			addNetns(t, far)
			ip(t, "-n", h.netns, "link", "add", "name", "lan0", "type", "veth", "peer", "name", "out0", "netns", far)
			ip(t, "-n", h.netns, "link", "set", "lan0", "up")
			ip(t, "-n", far, "link", "set", "out0", "up")
			ip(t, "-n", far, "addr", "add", worldAddr+"/24", "dev", "out0")
			for _, args := range c.make {
				ip(t, append([]string{"-n", h.netns}, args...)...)
			}
			before := links(t, h.netns)
			j := &journey{host: h, kind: kinds[0], world: newWorld(t, far)}
			path := h.spec(t, "card.yaml", fmt.Sprintf(`machine: {kind: %s}
ports: [{name: wan, attach: "%s", addresses: [%s/24], gateway: [%s], dns: [%s]}]
`, j.kind.name, c.attach, cardAddr, worldAddr, worldAddr))
			h.run(t, j.kind.start, 0, "up", "-f", path)
			if j.card = h.status(t, "card0"); j.card.State != status.Healthy {
				t.Fatalf("status: %s %v", j.card.State, j.card.Reasons)
			}
			for _, name := range []string{worldAddr, worldName} {
				r := h.runEnv(t, quick, []string{roleVariable + "=get"}, 0, "exec", "card0", "--", self, "http://"+name+"/")
				if r.out != cardAddr {
					t.Errorf("http://%s/ was asked by %q; want the card's %s", name, r.out, cardAddr)
				}
			}
			j.route(t)
			bulk, err := dialIn(h.netns, "tcp", net.JoinHostPort(worldAddr, "9"), 5*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			defer bulk.Close()
			_ = bulk.SetDeadline(time.Now().Add(quick))
			if err := exchange(bulk, 8<<20, 3); err != nil {
				t.Error(err)
			}
			h.run(t, quick, 0, "down")
			if after := links(t, h.netns); after != before {
				t.Errorf("interfaces before:\n%safterwards:\n%s", before, after)
			}
		})
	}
}

// needsKind skips the test if this kernel lacks the kind of device that attach wants.
func needsKind(t *testing.T, attach string) {
	t.Helper()
	probe := newHost(t)
	ip(t, "-n", probe.netns, "link", "add", "name", "l0", "type", "veth", "peer", "name", "l1")
	args := []string{"-n", probe.netns, "link", "add", "name", "x0", "type", "bridge"}
	if attach == "macvtap:lan0" {
		args = []string{"-n", probe.netns, "link", "add", "link", "l0", "name", "x0", "type", "macvtap"}
	}
	if _, err := tryIP(args...); err != nil {
		t.Skipf("this kernel has no such device: %v", err)
	}
}

// links returns a namespace's interfaces, one a line, with their hardware address.
func links(t *testing.T, netns string) string {
	t.Helper()
	var all strings.Builder
	for line := range strings.Lines(ip(t, "-n", netns, "-br", "link")) {
		if f := strings.Fields(line); len(f) > 2 {
			fmt.Fprintln(&all, f[0], f[2])
		}
	}
	return all.String()
}
