package e2e

import (
	"bufio"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/status"
)

// The network between an ordinary user's host and the world (RFC 5737).
const (
	outsideAddr = "198.51.100.1"
	insideAddr  = "198.51.100.2"
)

// ordinary is a user id. It needs no account.
const ordinary = 54321

// newUserHost makes a host on which an ordinary user runs toe. Such a card reaches the world as the
// user's own programs do: through the host's network.
func newUserHost(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	far := h.netns + "w"
	addNetns(t, far)
	ip(t, "-n", h.netns, "link", "add", "up0", "type", "veth", "peer", "name", "wan0", "netns", far)
	ip(t, "-n", h.netns, "addr", "add", insideAddr+"/24", "dev", "up0")
	ip(t, "-n", h.netns, "link", "set", "up0", "up")
	ip(t, "-n", far, "addr", "add", outsideAddr+"/24", "dev", "wan0")
	ip(t, "-n", far, "addr", "add", worldAddr+"/32", "dev", "lo")
	ip(t, "-n", far, "link", "set", "wan0", "up")
	ip(t, "-n", h.netns, "route", "add", "default", "via", outsideAddr)
	nameServer(t, h.netns, worldAddr)
	newWorld(t, far)
	h.cache = ownCache(t, h.dir)
	if err := os.Chown(h.dir, ordinary, ordinary); err != nil {
		t.Fatal(err)
	}
	h.tun = filepath.Join(h.dir, "tun")
	if err := unix.Mknod(h.tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(h.tun, 0o666); err != nil {
		t.Fatal(err)
	}
	h.user = &syscall.Credential{Uid: ordinary, Gid: ordinary}
	return h
}

// ownCache makes a cache with the same firmware. What is unpacked from it belongs to the user.
func ownCache(t *testing.T, dir string) string {
	t.Helper()
	own := filepath.Join(dir, "cache")
	images, err := filepath.Glob(filepath.Join(cache, "firmware", "current-*"))
	if err != nil || len(images) == 0 {
		t.Fatalf("no firmware in %s: %v; `toe firmware build` makes it", cache, err)
	}
	var errs []error
	errs = append(errs, os.MkdirAll(filepath.Join(own, "firmware"), 0o755))
	for _, link := range images {
		image, err := os.Readlink(link)
		errs = append(errs, err,
			os.Symlink(image, filepath.Join(own, "firmware", filepath.Base(link))),
			os.Symlink(filepath.Join(cache, "firmware", image), filepath.Join(own, "firmware", image)))
	}
	fetched, _ := filepath.Glob(filepath.Join(cache, "passt-*[^k]")) // without the lock; there is one if the host's passt is faulty
	for _, path := range fetched {
		errs = append(errs, os.Symlink(path, filepath.Join(own, filepath.Base(path))))
	}
	errs = append(errs, os.Chown(own, ordinary, ordinary), os.Chown(filepath.Join(own, "firmware"), ordinary, ordinary))
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return own
}

// nameServer sets what programs in a namespace find in /etc/resolv.conf (ip-netns(8)).
func nameServer(t *testing.T, netns, server string) {
	t.Helper()
	dir := filepath.Join("/etc/netns", netns)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.RemoveAll(dir)
		os.Remove("/etc/netns") // if it is empty
	})
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver "+server+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestUser is the journey of a user without root.
func TestUser(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			h := newUserHost(t)
			r := h.run(t, k.start, 0, "up", "-f", h.spec(t, "card.yaml", "machine: {kind: "+k.name+"}\n"))
			t.Logf("up took %s", r.took.Round(time.Millisecond))
			st := h.status(t, "card0")
			if st.State != status.Healthy || st.Machine.Kind != k.name {
				t.Fatalf("status: %s on %s %v", st.State, st.Machine.Kind, st.Reasons)
			}
			h.get(t, "card0")
			h.run(t, quick, 7, "exec", "--", "sh", "-c", "exit 7")
			h.run(t, quick, 0, "exec", "--", "sh", "-c", "test $(id -u) = 54321")
			if r := h.run(t, quick, 0, "ssh", "--", "hostname"); r.out != "card0\n" {
				t.Errorf("hostname of the card: %q", r.out)
			}
			h.userPump(t)
			if links := ip(t, "-n", h.netns, "-j", "link", "show"); strings.Contains(links, "toe") {
				t.Errorf("an ordinary user's card has an interface on the host: %s", links)
			}
			h.run(t, 40*time.Second, 0, "down")
			h.gone(t, 3*time.Second)
		})
	}
}

// get fetches from the world by address and by name.
func (h *host) get(t *testing.T, names ...string) {
	t.Helper()
	for _, host := range []string{worldAddr, worldName} {
		args := append(append([]string{"exec"}, names...), "--", self, "http://"+host+"/")
		if r := h.runEnv(t, quick, []string{roleVariable + "=get"}, 0, args...); r.out != insideAddr {
			t.Errorf("http://%s/ was asked by %q; want %s, the address of the user's host", host, r.out, insideAddr)
		}
	}
}

// userPump kills the pump of an ordinary user's card.
func (h *host) userPump(t *testing.T) {
	t.Helper()
	before := h.status(t, "card0")
	kill(t, before.Pump.PID)
	h.get(t, "card0")
	if now := h.status(t, "card0"); now.Pump == before.Pump || now.Machine.PID != before.Machine.PID {
		t.Errorf("pump %d, machine %d before; %d and %d after", before.Pump.PID, before.Machine.PID, now.Pump.PID, now.Machine.PID)
	}
}

// TestUserOwnCard lets exec make a card for one command, and remove it.
func TestUserOwnCard(t *testing.T) {
	h := newUserHost(t)
	r := h.runEnv(t, 2*time.Minute, []string{roleVariable + "=get"}, 0, "exec", "--", self, "http://"+worldName+"/")
	if r.out != insideAddr {
		t.Errorf("the world was asked by %q", r.out)
	}
	h.run(t, time.Minute, 7, "exec", "--", "sh", "-c", "exit 7")
	h.nothingRuns(t)
	if cards, _ := filepath.Glob(filepath.Join(h.dir, "state", "[^.]*")); len(cards) > 0 {
		t.Errorf("cards left: %q", cards)
	}
}

// TestUserOwnCardFails checks that exec reports why that card did not start.
func TestUserOwnCardFails(t *testing.T) {
	h := newUserHost(t)
	if err := os.Chmod(h.tun, 0o600); err != nil {
		t.Fatal(err)
	}
	r := h.run(t, time.Minute, 1, "exec", "--", "true")
	if !strings.Contains(r.err, "/dev/net/tun: permission denied") {
		t.Errorf("the reason is not told: %s", r.err)
	}
	h.nothingRuns(t)
	if cards, _ := filepath.Glob(filepath.Join(h.dir, "state", "[^.]*")); len(cards) > 0 {
		t.Errorf("cards left: %q", cards)
	}
}

// TestUserOwnCardOrphan kills the toe that made a card: the card goes.
func TestUserOwnCardOrphan(t *testing.T) {
	h := newUserHost(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := h.command(ctx, "exec", "--", "sh", "-c", "echo up; exec sleep 100")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Errorf("before the kill: %q, %v", line, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	h.nothingRuns(t)
	if cards, _ := filepath.Glob(filepath.Join(h.dir, "state", "[^.]*")); len(cards) > 0 {
		t.Errorf("cards left: %q", cards)
	}
}
