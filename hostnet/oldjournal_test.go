package hostnet

import (
	"encoding/base64"
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/hostnet/netdev"
)

// A journal as toe once wrote it names no boot and has other keys. What is in it and
// still there is undone, and no other card's.
func TestCleanAfterAnOldVersion(t *testing.T) {
	if !ownHost(t) {
		return
	}
	h, _ := testHost(t, "")
	a, b := newStand(t, "a", 0), newStand(t, "b", 1)
	lower := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "peer7"}
	lower.Name = "eth7"
	if err := netlink.LinkAdd(lower); err != nil {
		t.Fatal(err)
	}
	left := []interface{ Make() error }{
		&returnRoute{From: a.addrs.HostAddrs()[0], Via: a.addrs.CardAddrs()[0], Index: a.index, Table: testTable},
		&returnRoute{From: b.addrs.HostAddrs()[0], Via: b.addrs.CardAddrs()[0], Index: b.index, Table: testTable},
		&macvtap{Name: "toe-01234567", Lower: "eth7", MAC: []byte{2, 0, 0, 0, 0, 9}, MTU: 1500},
	}
	for _, c := range left {
		if err := c.Make(); err != nil {
			t.Fatal(err)
		}
	}
	file := t.TempDir() + "/resolv.conf"
	if err := os.WriteFile(file, []byte("ours"), 0o644); err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	old := fmt.Sprintf(`{"resolv_conf": {"path": %q, "data": %q, "mode": 420, "ours": %q},
 "interfaces": ["toe-01234567", "down0", "gone0"],
 "return_rules": [{"from": %q, "table": %d}, {"from": "fd74:6f65::2", "table": %d}]}`,
		file, b64([]byte("theirs")), b64([]byte("ours")), a.addrs.HostAddrs()[0], testTable, testTable)
	if err := os.WriteFile(h.card.Paths.Journal(), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	if !Unrestored(h.card) {
		t.Error("a replaced file is not told of")
	}
	for range 2 {
		if err := Clean(h.card); err != nil {
			t.Fatal(err)
		}
	}
	if data, _ := os.ReadFile(file); string(data) != "theirs" {
		t.Errorf("file: %q", data)
	}
	if hasRule(t, a.addrs.HostAddrs()[0]) {
		t.Error("the rule is still there")
	}
	if !hasRule(t, b.addrs.HostAddrs()[0]) || !hasRoute(t, b.index, testTable) {
		t.Error("another card has lost its rule or its route")
	}
	if netdev.Exists("toe-01234567") || !netdev.Exists("down0") {
		t.Error("the macvtap is still there, or another interface is not")
	}
	if _, err := os.Stat(h.card.Paths.Journal()); err == nil {
		t.Error("the journal is still there")
	}
}

// A journal that this version cannot read is an error, and stays.
func TestCleanWithAnUnknownJournal(t *testing.T) {
	if !ownHost(t) {
		return
	}
	h, _ := testHost(t, "")
	for _, text := range []string{`{"changes": [1]}`, `{"entries": [{"id": 1, "kind": "new", "change": {}}]}`, `[]`, `{`, ``} {
		if err := os.WriteFile(h.card.Paths.Journal(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Clean(h.card); err == nil {
			t.Errorf("%q: no error", text)
		}
		if data, err := os.ReadFile(h.card.Paths.Journal()); err != nil || string(data) != text {
			t.Errorf("%q is now %q, %v", text, data, err)
		}
	}
}

// What a card of an older toe put into the place of resolv.conf is no file of the
// host's, to be put back by another card.
func TestResolvConfOfAnOldVersion(t *testing.T) {
	if !ownHost(t) {
		return
	}
	etc := t.TempDir()
	if err := os.WriteFile(etc+"/resolv.conf", []byte("# written by toe; put back when the card goes down\nnameserver 10.116.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(etc, "/etc", "", unix.MS_BIND, ""); err != nil {
		t.Skipf("mounts are not allowed here: %v", err)
	}
	h, _ := testHost(t, "link: {default_route: true}\n")
	s := newStand(t, "a", 0)
	if _, err := h.DefaultRoute(t.Context(), s.iface, s.addrs); err == nil {
		t.Error("no error")
	}
}
