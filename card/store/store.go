// Package store is what a card keeps on its host: folders, lock, specification,
// keys, addresses. It changes nothing of the host but its own files.
package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/flock"
)

// ErrRunning: the card has a supervisor. Talk to it, or take the card down.
var ErrRunning = errors.New("the card is running")

// ErrNoCard: there is no card of that name. `toe up NAME` makes one.
var ErrNoCard = errors.New("no such card")

// Card is a card that exists: it has a state folder.
type Card struct {
	Name  string
	Spec  spec.Spec
	Paths Paths
	Dirs  Dirs
}

// Links is what a card was given to be unique on its host (links.json).
type Links struct {
	Interface string     `json:"interface,omitempty"` // the host's name of the link
	Link      *LinkAddrs `json:"link,omitempty"`
	Exec      *LinkAddrs `json:"exec,omitempty"`
}

// Open reads a card. It returns ErrNoCard where there is none.
func (d Dirs) Open(name string) (*Card, error) {
	if err := spec.CheckName(name); err != nil {
		return nil, err
	}
	c := &Card{Name: name, Paths: d.Card(name), Dirs: d}
	data, err := os.ReadFile(c.Paths.Spec())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("card %s: %w; `toe up %s` makes it", name, ErrNoCard, name)
	}
	if err != nil {
		return nil, err
	}
	if c.Spec, err = spec.Parse(c.Paths.Spec(), data); err != nil {
		return nil, err
	}
	c.Spec.Name = name
	return c, nil
}

// Create makes a card: its folder, its specification and its keys. home is
// where the public keys of the person who creates it are looked for. A card
// that exists keeps its keys and gets the new specification.
func (d Dirs) Create(want spec.Spec, home string) (*Card, error) {
	if err := spec.CheckName(want.Name); err != nil {
		return nil, err
	}
	c := &Card{Name: want.Name, Spec: want, Paths: d.Card(want.Name), Dirs: d}
	if err := os.MkdirAll(d.State, 0o755); err != nil {
		return nil, err
	}
	// Two who make the same card at once must not mix their keys.
	all, err := flock.Wait(filepath.Join(d.State, ".lock"))
	if err != nil {
		return nil, err
	}
	defer all.Release()
	if err := privateDir(c.Paths.State); err != nil {
		return nil, err
	}
	if c.Spec.SSH.AuthorizedKeys == nil {
		c.Spec.SSH.AuthorizedKeys = userKeys(home)
	}
	if err := c.makeKeys(); err != nil {
		return nil, err
	}
	// The specification comes last: a folder without one is no card.
	return c, c.SaveSpec()
}

func (c *Card) SaveSpec() error {
	data, err := c.Spec.YAML()
	if err != nil {
		return err
	}
	return atomicfile.Write(c.Paths.Spec(), data, 0o600)
}

// EnsureKeys is for a card that somebody has made by hand, of a card.yaml and
// nothing else.
func (c *Card) EnsureKeys() error {
	all, err := flock.Wait(filepath.Join(c.Dirs.State, ".lock"))
	if err != nil {
		return err
	}
	defer all.Release()
	return c.makeKeys()
}

// makeKeys makes the card's keys where it has none yet. Keys that cannot be read
// are an error: with new ones the card would be another for all who know it.
func (c *Card) makeKeys() error {
	dir := c.Paths.Keys()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		if _, err := control.LoadKeys(dir); err != nil {
			return fmt.Errorf("%w; fix: put the file back, or remove %s for new keys", err, dir)
		}
		return nil
	}
	keys, err := control.GenerateKeys()
	if err != nil {
		return err
	}
	// All or none: a card whose making was cut short has no keys.
	next := dir + ".new"
	if err := os.RemoveAll(next); err != nil {
		return err
	}
	if err := os.Mkdir(next, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(next)
	if err := errors.Join(makeLoginKey(next), keys.Save(next)); err != nil {
		return err
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // it is empty
		return err
	}
	if err := os.Rename(next, dir); err != nil {
		return err
	}
	return atomicfile.SyncDir(c.Paths.State)
}

// List names the cards that exist, sorted.
func (d Dirs) List() ([]string, error) {
	entries, err := os.ReadDir(d.State)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if spec.CheckName(e.Name()) != nil {
			continue
		}
		if _, err := os.Stat(d.Card(e.Name()).Spec()); err == nil {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Lock takes the card's lock, in a runtime folder made for that.
func (c *Card) Lock() (l *flock.Lock, err error) {
	for range 3 { // another process that removes the card takes the folder away
		if err = c.Paths.MakeRuntime(); err == nil {
			l, err = flock.Try(c.Paths.Lock())
		}
		if errors.Is(err, flock.ErrHeld) {
			return nil, ErrRunning
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return l, err
		}
	}
	return nil, err
}

// The devices of a card, as keepers, sockets and messages name them.
const (
	LinkDevice = "link"
	ExecDevice = "exec"
)

func PortDevice(name string) string { return "port-" + name }

// MAC gives the device called dev an address that is the same at every
// start: locally administered, unicast.
func (c *Card) MAC(dev string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("mac\x00" + c.Name + "\x00" + dev))
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// Privileged says whether the host's own network is ours to change.
func Privileged() bool { return os.Geteuid() == 0 }

// Reserve gives the card its links' addresses, keeping those it has where
// nobody else took them meanwhile.
func (c *Card) Reserve(host []Used) (Links, error) {
	all, err := flock.Wait(filepath.Join(c.Dirs.State, ".lock"))
	if err != nil {
		return Links{}, err
	}
	defer all.Release()
	var had Links
	if err := atomicfile.ReadJSON(c.Paths.Links(), &had); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Links{}, err
	}
	others, err := c.othersPrefixes(host)
	if err != nil {
		return Links{}, err
	}
	got, err := c.chooseLinks(had, others)
	if err != nil {
		return Links{}, err
	}
	if reflect.DeepEqual(got, had) {
		return got, nil
	}
	return got, atomicfile.WriteJSON(c.Paths.Links(), got)
}

func (c *Card) chooseLinks(had Links, others []Used) (Links, error) {
	taken := takenBy(others)
	var got Links
	pick := func(link string, want4, want6 spec.Prefix, had *LinkAddrs) (*LinkAddrs, error) {
		if had != nil {
			want4 = keep(want4, had.IPv4, taken)
			want6 = keep(want6, had.IPv6, taken)
		}
		a, err := chooseAddrs(c.Name, link, want4, want6, taken)
		return &a, err
	}
	var err error
	if Privileged() {
		got.Interface = had.Interface
		if got.Link, err = pick("link", c.Spec.Link.IPv4, c.Spec.Link.IPv6, had.Link); err != nil {
			return got, err
		}
		if !c.Spec.Link.WantExec() {
			return got, nil
		}
		// On the card both links are interfaces of one host.
		for _, p := range got.Link.Host() {
			others = append(others, Used{p, "the card's other link"})
		}
		taken = takenBy(others)
		got.Exec, err = pick("exec", spec.Prefix{}, spec.Prefix{}, had.Exec)
		return got, err
	}
	got.Exec, err = pick("exec", c.Spec.Link.IPv4, c.Spec.Link.IPv6, had.Exec)
	return got, err
}

// keep is what is wanted, or else what was there before if nobody has it.
func keep(want spec.Prefix, had netip.Prefix, taken func(netip.Prefix) string) spec.Prefix {
	if !want.IsZero() || !had.IsValid() || taken(had) != "" {
		return want
	}
	return spec.Prefix{Prefix: had}
}

// Home is the folder of the person behind this process, also behind sudo.
func Home() string {
	if name := os.Getenv("SUDO_USER"); name != "" && os.Geteuid() == 0 {
		if u, err := user.Lookup(name); err == nil {
			return u.HomeDir
		}
	}
	home, _ := os.UserHomeDir()
	return home
}

// Replace gives an existing card a new specification. One that is running
// must have the same already.
func (c *Card) Replace(want spec.Spec) error {
	want = c.Fill(want)
	live, restart := spec.Diff(c.Spec, want)
	if len(live)+len(restart) == 0 {
		return nil
	}
	_, held, err := flock.Owner(c.Paths.Lock())
	if err != nil {
		return err
	}
	if held {
		return fmt.Errorf("card %s is running with another specification (%s); `toe apply -f FILE` changes it",
			c.Name, append(restart, live...)[0])
	}
	return c.SetSpec(want)
}

// SetSpec replaces the specification of a card that is not running. It holds the
// card's lock, and returns ErrRunning where a supervisor does.
func (c *Card) SetSpec(want spec.Spec) error {
	l, err := c.Lock()
	if err != nil {
		return fmt.Errorf("card %s: card.yaml: %w", c.Name, err)
	}
	defer l.Release()
	before := c.Spec
	c.Spec = c.Fill(want)
	if err := c.SaveSpec(); err != nil {
		c.Spec = before
		return err
	}
	return nil
}

// Fill gives a new specification what the card keeps where nothing is said:
// its name and who may log in.
func (c *Card) Fill(want spec.Spec) spec.Spec {
	want.Name = c.Name
	if want.SSH.AuthorizedKeys == nil {
		want.SSH.AuthorizedKeys = c.Spec.SSH.AuthorizedKeys
	}
	return want
}

// Running says whether the card has a supervisor.
func (c *Card) Running() bool {
	_, held, err := flock.Owner(c.Paths.Lock())
	return err == nil && held
}

// temporaryPrefix begins the names of cards that live as long as a command.
const temporaryPrefix = "exec-"

// Temporary is the specification of a card that lives as long as the command
// of process pid: all it has to do is to carry that command's packets.
func Temporary(pid int) spec.Spec { return spec.Default(temporaryPrefix + strconv.Itoa(pid)) }

// IsTemporary says whether the card was made for one command.
func (c *Card) IsTemporary() bool {
	_, ok := c.maker()
	return ok
}

// Abandoned says whether the card was made for one command that is gone.
func (c *Card) Abandoned() bool {
	pid, ok := c.maker()
	return ok && errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

// maker is the process whose command the card was made for.
func (c *Card) maker() (pid int, ok bool) {
	text, ok := strings.CutPrefix(c.Name, temporaryPrefix)
	pid, err := strconv.Atoi(text)
	return pid, ok && err == nil && pid > 0
}

// CleanRuntime removes what only makes sense while the card runs. The logs
// stay: they say why it does not.
func (c *Card) CleanRuntime() error {
	keep := map[string]bool{
		c.Paths.Log(): true, c.Paths.Log() + ".1": true, c.Paths.ConsoleLog(): true, c.Paths.ConsoleLog() + ".1": true,
		c.Paths.Lock(): true,
	}
	entries, err := os.ReadDir(c.Paths.Runtime)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		path := c.Paths.Runtime + "/" + e.Name()
		if !keep[path] {
			err = errors.Join(err, os.RemoveAll(path))
		}
	}
	return err
}
