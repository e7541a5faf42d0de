package e2e

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/machine"
)

// nanoLimit is the maximum time until a nano card is ready. It takes a second.
const nanoLimit = 2 * time.Minute

// TestNano starts a card without MMU and sends traffic through it: a packet of the link's full size,
// and TCP with the card's address on the wire. Then the card is started again and taken down.
func TestNano(t *testing.T) {
	cache, err := firmware.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := firmware.Find(cache, firmware.Nano, machine.TCG, "riscv64"); errors.Is(err, firmware.ErrNotBuilt) {
		t.Skip("its firmware is not built, which takes minutes; toe firmware build --edition nano --arch riscv64")
	}
	h := newHost(t)
	far := h.netns + "w"
	addNetns(t, far)
	ip(t, "-n", h.netns, "link", "add", "name", "lan0", "type", "veth", "peer", "name", "out0", "netns", far)
	ip(t, "-n", h.netns, "link", "add", "name", "br0", "type", "bridge")
	ip(t, "-n", h.netns, "link", "set", "lan0", "master", "br0")
	for _, dev := range []string{"lan0", "br0"} {
		ip(t, "-n", h.netns, "link", "set", dev, "up")
	}
	ip(t, "-n", far, "link", "set", "out0", "up")
	ip(t, "-n", far, "addr", "add", worldAddr+"/24", "dev", "out0")
	before := links(t, h.netns)
	j := &journey{host: h, world: newWorld(t, far)}
	path := h.spec(t, "card.yaml", fmt.Sprintf(`firmware: {edition: nano}
machine: {memory: 64MiB}
ports: [{name: wan, attach: "bridge:br0", addresses: [%s/24], gateway: [%s]}]
`, cardAddr, worldAddr))
	h.run(t, nanoLimit, 0, "up", "-f", path)
	if j.card = h.status(t, "card0"); j.card.State != status.Healthy {
		t.Fatalf("status: %s %v", j.card.State, j.card.Reasons)
	}
	carries := func() {
		t.Helper()
		card := j.card.Link.Card[0].String()
		out, err := exec.Command("ip", "netns", "exec", h.netns, "ping", "-c", "1", "-W", "10", "-M", "do", "-s", "65507", card).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "65515 bytes from") {
			t.Errorf("ping of 65507 bytes: %v\n%s", err, out)
		}
		r := h.runEnv(t, quick, []string{roleVariable + "=get"}, 0, "exec", "card0", "--", self, "http://"+worldAddr+"/")
		if r.out != cardAddr {
			t.Errorf("the wire saw %q; want the card's %s", r.out, cardAddr)
		}
	}
	carries()
	j.route(t)
	bulk, err := dialIn(h.netns, "tcp", net.JoinHostPort(worldAddr, "9"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer bulk.Close()
	_ = bulk.SetDeadline(time.Now().Add(quick))
	if err := exchange(bulk, 1<<20, 3); err != nil {
		t.Error(err)
	}
	if r := h.run(t, quick, 1, "logs"); !strings.Contains(r.String(), "the nano edition has no logs") {
		t.Errorf("logs: %s", r)
	}
	h.run(t, quick, 0, "reset")
	h.await(t, "card0", nanoLimit, "the card is there again", func(st status.Status) error {
		if st.State != status.Healthy || st.Machine.PID == j.card.Machine.PID {
			return fmt.Errorf("%s, machine %d", st.State, st.Machine.PID)
		}
		return nil
	})
	carries()
	h.run(t, quick, 0, "down")
	if after := links(t, h.netns); after != before {
		t.Errorf("interfaces before:\n%safterwards:\n%s", before, after)
	}
}
