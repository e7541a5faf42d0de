package hostnet

import (
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Of two cards that want the host's default route at once one has it, and the
// other is told which. Name resolution is afterwards as it was before.
func TestDefaultRouteOfTwoCardsAtOnce(t *testing.T) {
	if !ownHost(t) {
		return
	}
	const before = "nameserver 192.0.2.1\n"
	etc := t.TempDir()
	if err := os.WriteFile(etc+"/resolv.conf", []byte(before), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(etc, "/etc", "", unix.MS_BIND, ""); err != nil {
		t.Skipf("mounts are not allowed here: %v", err)
	}
	first, _ := testHost(t, "link: {default_route: true}\n")
	other := *first.card
	other.Name = "b"
	other.Paths = other.Dirs.Card("b")
	if err := os.MkdirAll(other.Paths.State, 0o755); err != nil {
		t.Fatal(err)
	}
	hosts := []*Host{first, NewHost(&other, t.Logf)}
	stands := []stand{newStand(t, "a", 0), newStand(t, "b", 1)}
	const tries = 12
	for range tries {
		var errs [2]error
		var undo [2]func() error
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() { undo[i], errs[i] = hosts[i].DefaultRoute(t.Context(), stands[i].iface, stands[i].addrs) })
		}
		wg.Wait()
		winner := 0
		if errs[0] != nil {
			winner = 1
		}
		loser := 1 - winner
		if errs[winner] != nil || !errors.Is(errs[loser], ErrClaimed) || !strings.Contains(errs[loser].Error(), "card "+hosts[winner].card.Name+":") {
			t.Fatalf("%v and %v; want one success, and an error that names it", errs[0], errs[1])
		}
		if r, err := netlink.RouteGet(net.ParseIP("192.0.2.9")); err != nil || r[0].LinkIndex != stands[winner].index {
			t.Fatalf("the way is %v, %v; want one through %s", r, err, stands[winner].iface)
		}
		if err := undo[winner](); err != nil {
			t.Fatal(err)
		}
		if data, _ := os.ReadFile(resolvPath); string(data) != before {
			t.Fatalf("resolv.conf: %q", data)
		}
	}
	// A card that was killed keeps name resolution, and the next one says whose it is.
	h := hosts[0]
	if _, err := h.takeDNS(t.Context(), stands[0].iface, stands[0].index, stands[0].addrs.CardAddrs()); err != nil {
		t.Fatal(err)
	}
	_, err := hosts[1].DefaultRoute(t.Context(), stands[1].iface, stands[1].addrs)
	if !errors.Is(err, ErrClaimed) || !strings.Contains(err.Error(), "toe down "+h.card.Name) {
		t.Errorf("%v, want the name of the card that was killed", err)
	}
	if hasRoute(t, stands[1].index, unix.RT_TABLE_MAIN) {
		t.Error("routes of the card that failed are left")
	}
}
