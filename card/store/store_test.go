package store

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/toe-project/toe/card/spec"
)

func TestCreateKeepsKeysAndModes(t *testing.T) {
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0kZ0wCzHHFGzGxGPnYFcDqEs3T7i0VYX4y0PZl3n9b me@there"
	for name, text := range map[string]string{"a.pub": key, "b.pub": "rubbish", "id": "private"} {
		if err := os.WriteFile(filepath.Join(home, ".ssh", name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dirs := testDirs(t)
	c, err := dirs.Create(spec.Default("edge"), home)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Spec.SSH.AuthorizedKeys) != 1 || c.Spec.SSH.AuthorizedKeys[0] != key {
		t.Errorf("keys of the user who creates the card: %q", c.Spec.SSH.AuthorizedKeys)
	}
	before, err := c.HostKey()
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(c.Paths.State, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil && fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v; others may look", path, fi.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	again, err := dirs.Create(spec.Default("edge"), home)
	if err != nil {
		t.Fatal(err)
	}
	if after, err := again.HostKey(); err != nil || string(after.Marshal()) != string(before.Marshal()) {
		t.Errorf("a second creation changed the host key (%v)", err)
	}
}

func TestCreateTwiceAtOnceMixesNoKeys(t *testing.T) {
	for range 5 {
		dirs, home := testDirs(t), t.TempDir()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if _, err := dirs.Create(spec.Default("x"), home); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		c, err := dirs.Open("x")
		if err != nil {
			t.Fatal(err)
		}
		private, err := c.LoginKey()
		if err != nil {
			t.Fatal(err)
		}
		public, err := c.LoginPublic()
		if want := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(private.PublicKey()))); err != nil || public != want {
			t.Fatalf("the login key's halves are of two pairs: %s, %s, %v", public, want, err)
		}
	}
}

func TestOpenTellsWhatIsNotThere(t *testing.T) {
	dirs := testDirs(t)
	if _, err := dirs.Open("nosuch"); err == nil || !strings.Contains(err.Error(), "`toe up nosuch` makes it") {
		t.Error(err)
	}
	for _, bad := range []string{"", "..", "a/b", "-x", "x-", "UP", strings.Repeat("a", 33)} {
		if _, err := dirs.Open(bad); err == nil {
			t.Errorf("%q was opened", bad)
		}
	}
}

func TestLinkAddresses(t *testing.T) {
	free := func(netip.Prefix) string { return "" }
	a, err := chooseAddrs("card0", "link", spec.Prefix{}, spec.Prefix{}, free)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := chooseAddrs("card0", "link", spec.Prefix{}, spec.Prefix{}, free)
	if a != b {
		t.Errorf("the same card got %v and %v", a, b)
	}
	if !linkRange4.Contains(a.IPv4.Addr()) || a.IPv4.Bits() != 31 || a.IPv4.Masked() != a.IPv4 ||
		!linkRange6.Contains(a.IPv6.Addr()) || a.IPv6.Bits() != 127 || a.IPv6.Masked() != a.IPv6 {
		t.Errorf("outside of the ranges: %v", a)
	}
	if a.CardAddrs()[0] != a.HostAddrs()[0].Next() {
		t.Errorf("card %v, host %v", a.CardAddrs(), a.HostAddrs())
	}
	c, err := chooseAddrs("card0", "link", spec.Prefix{}, spec.Prefix{}, takenBy([]Used{{a.IPv4, "x"}, {netip.PrefixFrom(a.IPv6.Addr(), 64), "y"}}))
	if err != nil || c.IPv4.Overlaps(a.IPv4) || c.IPv6.Overlaps(a.IPv6) {
		t.Errorf("a taken prefix was given again: %v, %v", c, err)
	}
	_, err = chooseAddrs("card0", "link", spec.Prefix{Prefix: a.IPv4}, spec.Prefix{}, takenBy([]Used{{a.IPv4, "card other"}}))
	if err == nil || !strings.Contains(err.Error(), "link.ipv4 "+a.IPv4.String()+": taken by card other") {
		t.Errorf("a clash with what was asked for: %v", err)
	}
	_, err = chooseAddrs("card0", "link", spec.Prefix{}, spec.Prefix{}, func(netip.Prefix) string { return "everybody" })
	if err == nil {
		t.Error("a full range gave an address")
	}
}

// What link.ipv4 asks for may be what exec's link would get by its hash, or had.
func TestLinksOfOneCardShareNoAddress(t *testing.T) {
	if !Privileged() {
		t.Skip("without root a card has one link")
	}
	c := testCard(t, "")
	before, err := c.Reserve(nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Spec.Link.IPv4 = spec.Prefix{Prefix: before.Exec.IPv4}
	after, err := c.Reserve(nil)
	if err != nil {
		t.Fatal(err)
	}
	if after.Link.IPv4 != before.Exec.IPv4 || after.Exec.IPv4.Overlaps(after.Link.IPv4) {
		t.Errorf("link %v, exec %v", after.Link, after.Exec)
	}
}

func TestCardsOfOneHostShareNoAddress(t *testing.T) {
	dirs := testDirs(t)
	seen := map[netip.Prefix]string{}
	for i := range 20 {
		c, err := dirs.Create(spec.Default("c"+string(rune('a'+i))), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		l, err := c.Reserve(nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := c.Reserve(nil)
		if err != nil || !reflect.DeepEqual(again, l) {
			t.Errorf("second start has others: %v, %v", again, err)
		}
		for _, a := range []*LinkAddrs{l.Link, l.Exec} {
			if a == nil {
				continue
			}
			for _, p := range a.Host() {
				if by := seen[p]; by != "" {
					t.Errorf("%v is %s's and %s's", p, by, c.Name)
				}
				seen[p] = c.Name
			}
		}
	}
}

func TestRuntimeFolderOfSomebodyElseIsRefused(t *testing.T) {
	dirs := testDirs(t)
	if err := os.MkdirAll(dirs.Runtime, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dirs.Runtime, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := dirs.Card("x").MakeRuntime(); err == nil || !strings.Contains(err.Error(), "others may write to it") {
		t.Errorf("a folder that all may write to: %v", err)
	}
	link := filepath.Join(t.TempDir(), "l")
	if err := os.Symlink("/etc", link); err != nil {
		t.Fatal(err)
	}
	if err := (Dirs{Runtime: link}).Card("x").MakeRuntime(); err == nil {
		t.Error("a symbolic link was taken for a folder")
	}
	long := Dirs{Runtime: "/tmp/" + strings.Repeat("x", 100)}
	const want = "/x: its path has 107 bytes, want at most 81: "
	if err := long.Card("x").CheckSockets(); err == nil || !strings.Contains(err.Error(), want) ||
		!strings.Contains(err.Error(), "set TOE_RUNTIME_DIR") {
		t.Errorf("a path too long for a socket: %v, want %s", err, want)
	}
	if err := (Dirs{Runtime: "/run/toe"}).Card("x").CheckSockets(); err != nil {
		t.Errorf("a short path: %v", err)
	}
}

func TestIsTemporary(t *testing.T) {
	for name, want := range map[string]bool{
		"edge": false, "exec-": false, "exec-edge": false, "exec-0": false, Temporary(1).Name: true,
	} {
		if got := (&Card{Name: name}).IsTemporary(); got != want {
			t.Errorf("%s: temporary %v", name, got)
		}
	}
}

// A card is abandoned once the process that made it is gone, also when another
// process has its id by then: here that is process 1.
func TestAbandoned(t *testing.T) {
	dirs := testCard(t, "").Dirs
	c, err := dirs.Create(Temporary(1), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	claim, err := c.Claim()
	if err != nil {
		t.Fatal(err)
	}
	if c.Abandoned() {
		t.Error("abandoned while its maker lives")
	}
	claim.Release()
	if !c.Abandoned() {
		t.Error("not abandoned after its maker's end")
	}
	if (&Card{Name: "edge", Paths: c.Paths}).Abandoned() {
		t.Error("a card that was made to stay is abandoned")
	}
}

// An empty list stays empty when the file is read again.
func TestEmptyListsAreKept(t *testing.T) {
	c := testCard(t, "ports: [{name: wan, addresses: []}]\n")
	again, err := c.Dirs.Open(c.Name)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Spec.Ports[0].Addresses; len(got) != 0 {
		t.Errorf("addresses %v, want none", got)
	}
}

// The end of a console is shown to people: a card must not reach their
// terminal with it.
func TestConsoleTailIsFitForATerminal(t *testing.T) {
	for in, want := range map[string]string{
		"one\r\ntwo\tthree\r\n":          "one\ntwo\tthree",
		"\x1b]0;owned\x07\x1b[2Jpanic\n": "?]0;owned??[2Jpanic",
		"a\xc2\x9b31mb\xff\x00":          "a?31mb??",
	} {
		if got := LastLines([]byte(in), TailBytes); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

// Addresses that cannot be read are not free: the card that has them may run.
func TestAddressesThatCannotBeReadAreNotGivenAway(t *testing.T) {
	dirs := testDirs(t)
	var cards []*Card
	for _, name := range []string{"a", "b"} {
		c, err := dirs.Create(spec.Default(name), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		cards = append(cards, c)
	}
	if _, err := cards[0].Reserve(nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cards[0].Paths.Links(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cards[1].Reserve(nil); err == nil || !strings.Contains(err.Error(), cards[0].Paths.Links()) {
		t.Errorf("%v; want an error that names %s", err, cards[0].Paths.Links())
	}
}
