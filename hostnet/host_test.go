package hostnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/hostnet/holder"
	"github.com/toe-project/toe/hostnet/netdev"
	"github.com/toe-project/toe/internal/fds"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == holder.Verb {
		if err := holder.Main(); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const inNamespace = "TOE_TEST_IN_NAMESPACE"

// ownHost runs the calling test again as root of a user and a network
// namespace of its own: no privilege is needed, and nothing outside changes.
func ownHost(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		return true
	}
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("a TUN cannot be made here: %v", err)
	}
	f.Close()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skipf("user namespaces are not allowed here: %v", err)
	}
	if err != nil {
		t.Fatalf("in a namespace: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("in a namespace: %s", out)
	}
	return false
}

func testHost(t *testing.T, text string) (*Host, store.LinkAddrs) {
	c := storetest.Card(t, text)
	if err := c.Paths.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	l, err := c.Reserve(nil)
	if err != nil {
		t.Fatal(err)
	}
	return NewHost(c, t.Logf), *l.Link
}

// testLink is a card's link in this namespace, as a card with the
// specification text has it. It is closed with the test.
func testLink(t *testing.T, text string, queues int) (*Host, store.LinkAddrs, *Attachment) {
	t.Helper()
	return openEnd(t, text, queues, (*Host).Link)
}

// testExec is the same in the namespace of toe exec.
func testExec(t *testing.T) (*Host, store.LinkAddrs, *Attachment) {
	t.Helper()
	return openEnd(t, "", 1, (*Host).Exec)
}

func openEnd(t *testing.T, text string, queues int, how func(*Host, context.Context, LinkOptions) (*Attachment, error)) (*Host, store.LinkAddrs, *Attachment) {
	t.Helper()
	h, addrs := testHost(t, text)
	att, err := how(h, t.Context(), LinkOptions{Queues: queues, Addrs: addrs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fds.CloseAll(att.Files) })
	return h, addrs, att
}

func TestHostLink(t *testing.T) {
	if !ownHost(t) {
		return
	}
	h, addrs, att := testLink(t, "", 2)
	l, err := netlink.LinkByName("toe0")
	if err != nil || att.Interface != "toe0" || len(att.Files) != 2 {
		t.Fatalf("interface %s with %d queues: %v", att.Interface, len(att.Files), err)
	}
	if a := l.Attrs(); a.MTU != 65535 || a.EncapType != "none" || a.Flags&net.FlagUp == 0 {
		t.Errorf("MTU %d, type %s, flags %v", a.MTU, a.EncapType, a.Flags)
	}
	list, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range list {
		got = append(got, a.IPNet.String())
	}
	if want := []string{addrs.IPv4.String(), addrs.IPv6.String()}; strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("addresses %v, want %v and nothing else", got, want)
	}
	second, err := h.Link(context.Background(), LinkOptions{Queues: 1, Prefer: "toe0", Addrs: store.LinkAddrs{
		IPv4: netip.MustParsePrefix("10.116.0.0/31"), IPv6: netip.MustParsePrefix("fd74:6f65::2/127")}})
	if err != nil || second.Interface != "toe1" {
		t.Errorf("the second link: %v, %v", second, err)
	}
	if _, err := h.Link(context.Background(), LinkOptions{Interface: "toe0", Queues: 1, Addrs: addrs}); err == nil || !strings.Contains(err.Error(), "toe0 exists already") {
		t.Errorf("a name that is taken: %v", err)
	}
	fds.CloseAll(append(att.Files, second.Files...))
	if netdev.Exists("toe0") {
		t.Error("toe0 outlives its descriptors")
	}
}

func TestHostDefaultRoute(t *testing.T) {
	if !ownHost(t) {
		return
	}
	etc := t.TempDir()
	if err := os.WriteFile(etc+"/resolv.conf", []byte("nameserver 192.0.2.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(etc, "/etc", "", unix.MS_BIND, ""); err != nil {
		t.Skipf("mounts are not allowed here: %v", err)
	}
	h, addrs, att := testLink(t, "link: {default_route: true}\n", 1)
	undo, err := h.DefaultRoute(context.Background(), att.Interface, addrs)
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{"192.0.2.9", "2001:db8::9"} {
		r, err := netlink.RouteGet(net.ParseIP(to))
		if err != nil || len(r) != 1 || !r[0].Gw.Equal(addrs.CardAddrs()[map[bool]int{true: 1}[strings.Contains(to, ":")]].AsSlice()) {
			t.Errorf("the way to %s: %v, %v", to, r, err)
		}
	}
	if data, _ := os.ReadFile(resolvPath); !strings.Contains(string(data), "nameserver "+addrs.CardAddrs()[0].String()) {
		t.Errorf("resolv.conf: %q", data)
	}
	// A second card that wants the same is told, and touches nothing.
	if _, err := h.DefaultRoute(context.Background(), att.Interface, addrs); !errors.Is(err, ErrClaimed) || !strings.Contains(err.Error(), "card "+h.card.Name) {
		t.Errorf("a second default route: %v", err)
	}
	// As after a crash: a new supervisor finds the journal.
	again := *h.card
	if err := Clean(&again); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(resolvPath); string(data) != "nameserver 192.0.2.1\n" {
		t.Errorf("resolv.conf was not put back: %q", data)
	}
	for range 2 { // the second time there is nothing left to undo
		if err := undo(); err != nil {
			t.Error(err)
		}
	}
	if r, err := netlink.RouteGet(net.ParseIP("192.0.2.9")); err == nil {
		t.Errorf("there still is a way: %v", r)
	}
	fds.CloseAll(att.Files)
}

func TestHostPorts(t *testing.T) {
	if !ownHost(t) {
		return
	}
	h, _ := testHost(t, "")
	h.passt = untested
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name = "br0"
	// A veth, because not every kernel has dummies.
	lower := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "peer7"}
	lower.Name, lower.HardwareAddr = "eth7", net.HardwareAddr{0xf2, 0xff, 0xff, 0xff, 0xff, 0xff}
	for _, l := range []netlink.Link{bridge, lower} {
		if err := netlink.LinkAdd(l); err != nil {
			t.Skipf("%s: %v", l.Attrs().Name, err)
		}
	}
	if err := netlink.LinkSetMaster(lower, bridge); err != nil {
		t.Fatal(err)
	}
	address := func() string {
		l, err := netlink.LinkByName("br0")
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().HardwareAddr.String()
	}
	before := address()
	for _, c := range []struct{ attach, wrong string }{
		{"user", ""},
		{"tap:t0", ""},
		{"bridge:br0", ""},
		{"bridge:br1", `there is no interface br1; did you mean "br0"?`},
		{"bridge:eth7", "eth7 is not a bridge"},
		{"tap:eth7", "eth7 exists and is a veth, not a tap"},
		{"macvtap:eth8", `there is no interface eth8; did you mean "eth7"?`},
		{"netns:nosuch/t0", "there is no network namespace nosuch"},
	} {
		p := portOf(t, c.attach)
		err := h.CheckPort(p)
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%s: %v, want %q", c.attach, err, c.wrong)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.attach, err)
			continue
		}
		att, err := h.Port(context.Background(), p, h.card.MAC("x"), "tcg")
		if err != nil {
			t.Errorf("%s: %v", c.attach, err)
		}
		if att == nil {
			continue
		}
		if att.Stream { // a user port has no interface
			fds.CloseAll(att.Files)
			if err := att.Detach(); err != nil {
				t.Error(err)
			}
			continue
		}
		l, err := netlink.LinkByName(att.Interface)
		if err != nil {
			t.Fatal(err)
		}
		if a := l.Attrs(); a.MTU != 1400 || a.Flags&net.FlagUp == 0 || (p.Attach.Kind == spec.AttachBridge) != (a.MasterIndex != 0) {
			t.Errorf("%s: MTU %d, flags %v, master %d", c.attach, a.MTU, a.Flags, a.MasterIndex)
		}
		if now := address(); now != before {
			t.Errorf("%s: the bridge's address became %s, was %s", c.attach, now, before)
		}
		if p.Attach.Kind == spec.AttachTAP {
			if _, err := h.Port(context.Background(), p, nil, "tcg"); err == nil || !strings.Contains(err.Error(), "in use by another process") {
				t.Errorf("a busy tap: %v", err)
			}
		}
		fds.CloseAll(att.Files)
	}
}

func portOf(t *testing.T, attach string) spec.Port {
	p := spec.Port{Name: "wan", MTU: 1400}
	if err := p.Attach.UnmarshalText([]byte(attach)); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestHostExecNamespace(t *testing.T) {
	if !ownHost(t) {
		return
	}
	_, addrs, att := testExec(t)
	if att.Interface != "toe0" || len(att.Files) != 1 || netdev.Exists("toe0") {
		t.Errorf("interface %s, %d queues; it must not be in this namespace", att.Interface, len(att.Files))
	}
	// The namespace's own address is reached through its loopback. No socket listens there, so the
	// connection is refused. The card's address leads into the TUN, where there is no answer.
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := att.Dial(context.Background(), "tcp", net.JoinHostPort(addrs.HostAddrs()[0].String(), "9"))
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("dial in the namespace: %v", err)
	}
	_, err = att.Dial(ctx, "tcp", net.JoinHostPort(addrs.CardAddrs()[0].String(), "9"))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("dial of a card that does not answer: %v", err)
	}
	var there, here unix.Stat_t
	err = errors.Join(unix.Fstat(int(att.Namespaces[0].Fd()), &there), unix.Stat("/proc/self/ns/net", &here))
	if err != nil || there.Ino == here.Ino {
		t.Errorf("network namespace %d, %v; this one's is %d", there.Ino, err, here.Ino)
	}
	if err := att.Detach(); err != nil {
		t.Error(err)
	}
	if err, ok := <-att.Died; ok {
		t.Errorf("the holder ended twice: %v", err)
	}
	if _, err := att.Dial(context.Background(), "tcp", "192.0.2.1:9"); err == nil {
		t.Error("a dial after the end")
	}
	fds.CloseAll(att.Files)
}
