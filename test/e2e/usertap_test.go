package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/toe-project/toe/card/status"
)

// newTAPHost makes a host with a TAP that root made for an ordinary user, on a bridge to the world.
// The host itself has no address there, so all that comes from it is the card's.
func newTAPHost(t *testing.T) *host {
	t.Helper()
	h := newUserHost(t)
	far := h.netns + "t"
	addNetns(t, far)
	for _, args := range [][]string{
		{"link", "add", "br0", "type", "bridge"},
		{"link", "add", "out0", "type", "veth", "peer", "name", "lan0", "netns", far},
		{"tuntap", "add", "mode", "tap", "user", strconv.Itoa(ordinary), "name", "mine0"},
		{"tuntap", "add", "mode", "tap", "user", "54322", "name", "theirs0"},
		{"tuntap", "add", "mode", "tap", "user", strconv.Itoa(ordinary), "name", "down0"},
		{"link", "set", "mine0", "master", "br0"}, {"link", "set", "out0", "master", "br0"},
		{"link", "set", "br0", "up"}, {"link", "set", "out0", "up"}, {"link", "set", "mine0", "up"}, {"link", "set", "theirs0", "up"},
	} {
		ip(t, append([]string{"-n", h.netns}, args...)...)
	}
	ip(t, "-n", far, "addr", "add", worldAddr+"/24", "dev", "lan0")
	ip(t, "-n", far, "link", "set", "lan0", "up")
	newWorld(t, far)
	return h
}

func tapSpec(kind, attach string) string {
	return fmt.Sprintf(`machine: {kind: %s}
ports: [{name: wan, attach: '%s', addresses: [%s/24], gateway: [%s], dns: [%s]}]
`, kind, attach, cardAddr, worldAddr, worldAddr)
}

// TestUserTAP tests an ordinary user's card with a network address of its own: the web server sees
// that address, not the host's.
func TestUserTAP(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			h := newTAPHost(t)
			h.run(t, k.start, 0, "up", "-f", h.spec(t, "card.yaml", tapSpec(k.name, "tap:mine0")))
			if st := h.status(t, "card0"); st.State != status.Healthy {
				t.Fatalf("status: %s %v", st.State, st.Reasons)
			}
			for _, host := range []string{worldAddr, worldName} {
				r := h.runEnv(t, quick, []string{roleVariable + "=get"}, 0, "exec", "--", self, "http://"+host+"/")
				if r.out != cardAddr {
					t.Errorf("http://%s/ was asked by %q; want %s, the card's own address", host, r.out, cardAddr)
				}
			}
			h.run(t, quick, 0, "down")
			if out := ip(t, "-n", h.netns, "link", "show", "mine0"); !strings.Contains(out, "mine0") {
				t.Errorf("root's TAP is gone: %s", out)
			}
		})
	}
}

// TestUserAttachRefused checks that attachments that need root are refused at once.
func TestUserAttachRefused(t *testing.T) {
	h := newTAPHost(t)
	for i, c := range []struct{ attach, want string }{
		{"tap:none0", "ip tuntap add mode tap user 54321 name none0"},
		{"tap:theirs0", "is not yours"},
		{"tap:down0", "ip link set down0 up"},
		{"tap:up0", "not a tap"},
		{"bridge:br0", "needs root"},
		{"macvtap:up0", "needs root"},
		{"netns:" + h.netns + "w/x0", "needs root"},
	} {
		r := h.run(t, quick, 1, "up", "-f", h.spec(t, fmt.Sprintf("refused%d.yaml", i), fmt.Sprintf("name: c%d\n%s", i, tapSpec("uml", c.attach))))
		if !strings.Contains(r.err, c.attach) || !strings.Contains(r.err, c.want) {
			t.Errorf("%s: want %q: %s", c.attach, c.want, r)
		}
		h.nothingRuns(t)
	}
}
