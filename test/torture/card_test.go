package torture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/supervisor"
	"github.com/toe-project/toe/card/update"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/disk"
	"github.com/toe-project/toe/disk/disktest"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/hostnet"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/link"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/uml"
)

// superviseVerb makes this program a card's supervisor, so that a test can kill it with all that it
// has started. Arguments: folders of state, runtime and cache, the card's name, and a folder for the
// trace of its flash, which may be empty.
const superviseVerb = "torture-supervise"

func supervise(args []string) error {
	if len(args) != 5 {
		return fmt.Errorf("%s: %q: want five arguments", superviseVerb, args)
	}
	c, err := store.Dirs{State: args[0], Runtime: args[1], Cache: args[2]}.Open(args[3])
	if err != nil {
		return err
	}
	logger := log.New(os.Stderr, "", log.LstdFlags|log.Lmicroseconds)
	user := sandbox.OwnUser(c.Name)
	opened := func(d supervisor.Device, path string, event func(string)) (supervisor.DiskKeeper, error) {
		if args[4] == "" {
			return supervisor.FileDisk(d, path, event)
		}
		return tracedDisk(d, path, args[4], event)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return supervisor.New(c, supervisor.Parts{
		Choose: func(context.Context, string) (machine.Machine, string, error) {
			return uml.New(uml.Config{UID: user, GID: user}), "the test's", nil
		},
		Image: func(ctx context.Context, edition string, kind machine.Kind) (supervisor.Image, error) {
			return supervisor.Image{}, errors.New("no slot can be started; the test has no rescue system")
		},
		Network: hostnet.NewHost(c, logger.Printf),
		Keeper:  supervisor.LinkKeeper,
		Flash: func(context.Context, *store.Card, machine.Kind) (*rom.ROM, error) {
			return rom.Open(c.Paths)
		},
		Disk: opened,
		Control: func(addr netip.AddrPort, keys control.Keys, dial control.DialFunc) (cardpb.CardClient, func(), error) {
			client, err := control.Dial(addr, keys, dial)
			if err != nil {
				return nil, nil, err
			}
			return client, client.Close, nil
		},
		Limits: supervisor.DefaultLimits(),
	}, logger).Run(ctx, nil)
}

// tracedDisk is supervisor.FileDisk with a worker in this process that keeps all that is written.
func tracedDisk(d supervisor.Device, path, dir string, event func(string)) (supervisor.DiskKeeper, error) {
	t, err := disktest.NewTracer(path, dir)
	if err != nil {
		return nil, err
	}
	f, err := disk.Open(path, false)
	if err != nil {
		return nil, err
	}
	k, err := disk.NewKeeper(disk.Disk{Name: d.Name, Socket: d.Socket, File: f}, disk.Options{
		Launch: disktest.Launch(t.Wrap), Event: func(e link.Event) { event(e.Text) },
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// card is a card whose supervisor is a process of its own.
type card struct {
	*store.Card
	dirs store.Dirs
	sup  *exec.Cmd
	log  *os.File
}

// limit bounds every wait for the card. With a load of 40 on two CPUs a start takes two minutes.
const limit = 6 * time.Minute

// newCard makes a card with a release in slot A, as `toe up` does.
func (s *small) newCard(t *testing.T, name string, img *firmware.Image, more ...string) *card {
	t.Helper()
	want, err := spec.Parse("card.yaml", []byte("name: "+name+"\nmachine: {kind: uml}\nports: []\nlink: {exec: false}\n"+
		"firmware: {edition: debian, flash: 1GiB, health_limit: 60}\n"+strings.Join(more, "\n")+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "tt") // short, because of the sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &card{dirs: store.Dirs{State: filepath.Join(dir, "s"), Runtime: filepath.Join(dir, "r"), Cache: s.cache}}
	if c.Card, err = c.dirs.Create(want, dir); err != nil {
		t.Fatal(err)
	}
	if err := c.EnsureKeys(); err != nil {
		t.Fatal(err)
	}
	if img != nil {
		if err := rom.Create(t.Context(), c.Paths, img, flash.MinSize, nil); err != nil {
			t.Fatal(err)
		}
	}
	if c.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.kill(t)
		if t.Failed() {
			c.show(t)
		}
		c.log.Close()
	})
	return c
}

func (c *card) show(t *testing.T) {
	for _, name := range []string{c.log.Name(), c.Paths.ConsoleLog()} {
		text, _ := os.ReadFile(name)
		t.Logf("end of %s:\n%s", filepath.Base(name), text[max(0, len(text)-6000):])
	}
	events, _, _ := rom.History(c.Paths)
	for _, e := range events {
		t.Logf("history: %s %s %s: %s; %s", e.What, e.Slot, e.Version, e.Why, e.Outcome)
	}
}

// power starts the card's supervisor. Trace is a folder or empty.
func (c *card) power(t *testing.T, trace string) {
	t.Helper()
	if c.sup != nil {
		t.Fatal("the card has power")
	}
	c.sup = exec.Command("/proc/self/exe", superviseVerb, c.dirs.State, c.dirs.Runtime, c.dirs.Cache, c.Name, trace)
	c.sup.Stdout, c.sup.Stderr = c.log, c.log
	c.sup.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.sup.Start(); err != nil {
		t.Fatal(err)
	}
}

// kill takes the power away: of the supervisor and of all that it has started.
func (c *card) kill(t *testing.T) {
	if c.sup == nil {
		return
	}
	_ = c.sup.Process.Kill()
	_ = c.sup.Wait()
	c.sup = nil
	// The machine dies with its parent. The flash is locked until the disk's worker is gone.
	c.awaitFree(t)
}

func (c *card) awaitFree(t *testing.T) {
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		f, err := disk.Open(c.Paths.Flash(), false)
		if err == nil {
			f.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waiting for the flash: %v", err)
		}
	}
}

// down ends the card in good order.
func (c *card) down(t *testing.T) {
	t.Helper()
	_ = c.sup.Process.Signal(syscall.SIGTERM)
	if err := c.sup.Wait(); err != nil {
		t.Errorf("supervisor: %v", err)
	}
	c.sup = nil
}

// await waits for a state of the card.
func (c *card) await(t *testing.T, what string, check func(status.Status) error) status.Status {
	t.Helper()
	var last error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		st, err := client.New(c.Card).Status(t.Context(), 0)
		if err == nil {
			if err = check(st); err == nil {
				return st
			}
		}
		last = err
	}
	t.Fatalf("waiting for %s: %v", what, last)
	return status.Status{}
}

// settled waits until the card is healthy with a good slot.
func (c *card) settled(t *testing.T) status.Status {
	t.Helper()
	return c.await(t, "a healthy card", func(st status.Status) error {
		if st.State != status.Healthy || st.Firmware.Trial {
			return fmt.Errorf("state %s %s, slot %s, trial %v: %s", st.State, st.Stage, st.Firmware.Slot, st.Firmware.Trial,
				strings.Join(st.Reasons, "; "))
		}
		return nil
	})
}

// update does what `toe firmware install` does.
func (c *card) update(ctx context.Context, bundle string) (*update.Result, error) {
	return update.Install(ctx, c.Card, update.Options{Source: bundle, AllowDowngrade: true})
}

// verdict is what the boot ROM finds in a flash.
type verdict struct {
	start rom.Start
	table flash.Table
}

// boot asks the boot ROM which slot it starts from the flash at path. The answer is for the eyes of
// the test: the environment of path changes, as at a start.
func boot(t *testing.T, c *card, path string) (verdict, error) {
	t.Helper()
	p := c.Paths
	p.State = filepath.Dir(path)
	if filepath.Base(path) != filepath.Base(p.Flash()) {
		t.Fatalf("%s: want the name of a card's flash", path)
	}
	r, err := rom.Open(p)
	if err != nil {
		return verdict{}, err
	}
	defer r.Close()
	start, err := r.Boot(t.Context(), rom.Hardware{Machine: string(machine.UML), Arch: arch.Host().Name})
	if err != nil {
		return verdict{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return verdict{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return verdict{}, err
	}
	table, err := flash.Read(f, info.Size())
	return verdict{start, table}, err
}

// extract copies the file system of a partition to a file. It reports false for one that was never
// written.
func extract(path string, p flash.Partition, to string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return disktest.CopyPart(to, f, p.Offset, p.Size)
}

// harmless is what the kernel leaves in every ext4 that was not unmounted, and puts right by itself:
// the totals of the superblock, which are not in the journal, and a flag.
var harmless = regexp.MustCompile(`(?m)^(Free (blocks|inodes) count wrong \(\d+, counted=\d+\)\.\nFix` +
	`|Feature orphan_present is set but orphan file is clean\.\nClear)\? no$`)

// fsck checks a file system as the card's kernel would find it: the journal is replayed, and then there
// must be no error.
func fsck(path string) error {
	if out, err := exec.Command("e2fsck", "-E", "journal_only", "-p", path).CombinedOutput(); err != nil && exitStatus(err) > 1 {
		return fmt.Errorf("journal: %w: %s", err, out)
	}
	out, err := exec.Command("e2fsck", "-f", "-n", path).CombinedOutput()
	if rest := harmless.ReplaceAll(out, nil); err != nil && (exitStatus(err) != 4 || bytes.Contains(rest, []byte("? no"))) {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}
