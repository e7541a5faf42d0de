package torture

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/disk/disktest"
	"github.com/toe-project/toe/flash"
)

// Settings of the environment: rounds in all, and the seed of an earlier run.
const (
	roundsVariable = "TOE_TORTURE_ROUNDS"
	seedVariable   = "TOE_TORTURE_SEED"

	defaultRounds = 200
	// diskBlock is what survives whole or not at all, in bytes. A host writes pages, and disks have
	// sectors of this size. With less, the superblock of an ext4 can be torn, which it does not survive.
	diskBlock = 4096

	perUpdate = 100 // rounds that one recorded update serves
)

// TestUpdates does to updates what can happen to them. The steps share a card and its releases.
func TestUpdates(t *testing.T) {
	s := newSmall(t)
	w := &world{small: s, sums: s.sums(t), releases: []string{"1-one", "1-two"}}
	one, two := s.release(t, "one"), s.release(t, "two")
	w.bundles = []string{s.bundle(t, one, "2026.1128.1"), s.bundle(t, two, "2026.1128.2")}
	c := s.newCard(t, "torture", one)
	t.Run("PowerLoss", func(t *testing.T) { w.powerLoss(t, c) })
	t.Run("ZeroTrust", func(t *testing.T) { w.zeroTrust(t, one) })
	t.Run("BadBundles", func(t *testing.T) { w.badBundles(t, c) })
}

// powerLoss takes the power away at random moments of updates.
//
// An update is recorded: a card boots, installs a bundle with its own RAUC, restarts, tries the new
// slot, finds it good, and ends. Each round takes one moment of it, loses a random part of what was
// not flushed by then, and looks at the disk that is left: the boot ROM starts the old release or
// the new one, whole; e2fsck finds no error; RAUC's own records can be read. The recorded
// updates alternate between the slots, so that half of them overwrite an older release.
//
// After each recorded update the card itself is killed in the middle of another one, with and without
// the loss of what was not flushed by turns. It boots, and the same command finishes the update.
func (w *world) powerLoss(t *testing.T, c *card) {
	rounds, seed := number(t, roundsVariable, defaultRounds), number(t, seedVariable, int(time.Now().UnixNano()&0xffffff))
	t.Logf("%d rounds; %s=%d chooses the same moments again", rounds, seedVariable, seed)
	rng := rand.New(rand.NewPCG(uint64(seed), 0))
	for done, next := 0, 1; done < rounds; done += perUpdate {
		trace := filepath.Join(w.dir, "trace")
		took := w.record(t, c, trace, next)
		w.cuts(t, c, trace, uint64(seed), done, min(perUpdate, rounds-done))
		if t.Failed() {
			return
		}
		// The killed update leads to the other slot, and the next recorded one back.
		w.killed(t, c, 1-next, took, done/perUpdate%2 == 1, rng)
	}
	t.Logf("%s", &w.count)
}

func number(t *testing.T, variable string, otherwise int) int {
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: want a number from 1", variable, text)
	}
	return n
}

// world is what all rounds share.
type world struct {
	*small
	sums     map[string]string // of the root's files; the name of the release aside
	releases []string
	bundles  []string

	mu    sync.Mutex
	count tally // guarded by mu
}

// tally counts what the rounds saw.
type tally struct {
	rounds, trial, lost, torn int
	slots                     map[string]int // by release
	kills, killsLost          int
}

func (c *tally) String() string {
	var found []string
	for _, r := range slices.Sorted(maps.Keys(c.slots)) {
		found = append(found, fmt.Sprintf("%d times %s", c.slots[r], r))
	}
	return fmt.Sprintf("%d cuts: %s started, %d on trial; %d writes lost, %d torn; %d updates killed on the card, %d of them with losses",
		c.rounds, strings.Join(found, ", "), c.trial, c.lost, c.torn, c.kills, c.killsLost)
}

// record updates the card to a release and records its flash. It returns how long the update took.
func (w *world) record(t *testing.T, c *card, trace string, release int) time.Duration {
	t.Helper()
	if err := errors.Join(os.RemoveAll(trace), os.Mkdir(trace, 0o700)); err != nil {
		t.Fatal(err)
	}
	c.power(t, trace)
	c.settled(t)
	took := w.finish(t, c, release)
	c.down(t)
	t.Logf("recorded an update to %s, %.1f s", w.releases[release], took.Seconds())
	return took
}

// finish runs the command that updates the card to a release.
func (w *world) finish(t *testing.T, c *card, release int) time.Duration {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 5*limit)
	defer cancel()
	r, err := c.update(ctx, w.bundles[release])
	if err != nil {
		t.Fatalf("update to %s: %v", w.releases[release], err)
	}
	if r.Version != w.releases[release] || !r.Started {
		t.Fatalf("update to %s: %+v", w.releases[release], r)
	}
	return time.Since(began)
}

// moment is a round: the power fails after n requests.
type moment struct{ round, n int }

// moments chooses the moments of rounds. Every second one is near a change of the boot environment,
// which is a small part of the writes.
func moments(tr *disktest.Trace, env flash.Partition, seed uint64, first, rounds int) []moment {
	near := tr.Touching(env.Offset, env.Size)
	var out []moment
	for round := first; round < first+rounds; round++ {
		rng := rand.New(rand.NewPCG(seed, uint64(2*round+1)))
		n := rng.IntN(tr.Len() + 1)
		if round%2 == 1 && len(near) > 0 {
			n = near[rng.IntN(len(near))] + rng.IntN(9) - 4
		}
		out = append(out, moment{round, max(0, min(n, tr.Len()))})
	}
	slices.SortFunc(out, func(a, b moment) int { return a.n - b.n })
	return out
}

// cuts runs rounds on a trace, two at a time.
func (w *world) cuts(t *testing.T, c *card, trace string, seed uint64, first, rounds int) {
	const workers = 2
	var busy sync.WaitGroup
	for k := range workers {
		busy.Go(func() {
			tr, err := disktest.OpenTrace(trace)
			if err != nil {
				t.Error(err)
				return
			}
			defer tr.Close()
			tr.Block = diskBlock
			dir := filepath.Join(w.dir, fmt.Sprint("cut", k))
			path := filepath.Join(dir, filepath.Base(c.Paths.Flash()))
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Error(err)
				return
			}
			defer os.RemoveAll(dir)
			env := tableOf(t, c.Paths.Flash()).Find(flash.EnvName)
			for i, m := range moments(tr, env, seed, first, rounds) {
				if i%workers != k || t.Failed() {
					continue
				}
				loss, err := tr.CutAt(m.n, path, rand.New(rand.NewPCG(seed, uint64(2*m.round))))
				if err == nil {
					err = w.check(t, c, path, loss)
				}
				if err != nil {
					kept := keep(t, path)
					t.Errorf("round %d of seed %d, after %d of %d requests, %s: %v; the disk is %s", m.round, seed, m.n, tr.Len(), loss, err, kept)
				}
			}
		})
	}
	busy.Wait()
}

// keep saves the disk of a failed round.
func keep(t *testing.T, path string) string {
	f, err := os.CreateTemp("", "toe-torture-*.img")
	if err != nil {
		return err.Error()
	}
	f.Close()
	if out, err := exec.Command("cp", "--sparse=always", path, f.Name()).CombinedOutput(); err != nil {
		return fmt.Sprint(err, string(out))
	}
	return f.Name()
}

func tableOf(t *testing.T, path string) flash.Table {
	f, err := os.Open(path)
	if err != nil {
		t.Error(err)
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Error(err)
		return nil
	}
	table, err := flash.Read(f, info.Size())
	if err != nil {
		t.Error(err)
	}
	return table
}

// check looks at a flash after a power loss.
func (w *world) check(t *testing.T, c *card, path string, loss disktest.Loss) error {
	v, err := boot(t, c, path)
	if err != nil {
		return err
	}
	if v.start.Image == nil {
		return fmt.Errorf("neither release starts: %s", v.start.Why)
	}
	if !slices.Contains(w.releases, v.start.Image.Version) {
		return fmt.Errorf("slot %s has release %q", v.start.Slot, v.start.Image.Version)
	}
	err = w.checkParts(path, v, []part{
		{v.start.Slot.Root(), func(dir, fs string) error { return w.checkRoot(dir, fs, v.start.Image.Version) }},
		{flash.DataName, checkData},
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.count.slots == nil {
		w.count.slots = map[string]int{}
	}
	w.count.rounds++
	w.count.lost += loss.Lost
	w.count.torn += loss.Torn
	w.count.slots[v.start.Image.Version]++
	if v.start.Trial {
		w.count.trial++
	}
	return nil
}

// part is a partition with a file system, and what is to be seen of it: dir is an empty folder, fs its
// copy.
type part struct {
	name  string
	check func(dir, fs string) error
}

func (w *world) checkParts(path string, v verdict, parts []part) error {
	for _, p := range parts {
		dir, err := os.MkdirTemp(w.dir, "part")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		fs := filepath.Join(dir, "fs")
		some, err := extract(path, v.table.Find(p.name), fs)
		if err != nil {
			return err
		}
		if !some || isUnfinished(v, p.name) {
			continue
		}
		if err := fsck(fs); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := p.check(dir, fs); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// isUnfinished reports whether a partition is data that the card makes anew at its next start, because
// its first mkfs did not end (agent/data.go).
func isUnfinished(v verdict, name string) bool {
	return name == flash.DataName && v.start.Env["DATA"] == "making"
}

// checkRoot compares every file of a root with its release.
func (w *world) checkRoot(dir, fs, version string) error {
	if out, err := exec.Command("debugfs", "-R", "rdump / "+dir, fs).CombinedOutput(); err != nil {
		return fmt.Errorf("debugfs: %w: %s", err, out)
	}
	name, err := os.ReadFile(filepath.Join(dir, releaseFile))
	if err != nil || "1-"+strings.TrimSpace(string(name)) != version {
		return fmt.Errorf("kernel of release %s, root of %q, %w", version, name, err)
	}
	seen := 0
	for file, want := range w.sums {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if got := sum(data); got != want {
			return fmt.Errorf("file %s is not that of the release", file)
		}
		seen++
	}
	if seen < len(smallPrograms) {
		return fmt.Errorf("%d files are compared", seen)
	}
	return nil
}

// checkData reads RAUC's own database on the data partition: it is whole, or there is none yet.
func checkData(_, fs string) error {
	out, err := exec.Command("debugfs", "-R", "cat /rauc/central.raucs", fs).Output()
	if err != nil {
		return fmt.Errorf("debugfs: %w", err)
	}
	section := false
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = true
		case section && strings.Contains(line, "="):
		default:
			return fmt.Errorf("RAUC's central.raucs has line %q", line)
		}
	}
	return nil
}

// killed takes the power from a card in the middle of an update, and finishes that afterwards.
func (w *world) killed(t *testing.T, c *card, release int, took time.Duration, lose bool, rng *rand.Rand) {
	trace := ""
	if lose {
		trace = filepath.Join(w.dir, "killed")
		if err := errors.Join(os.RemoveAll(trace), os.Mkdir(trace, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	c.power(t, trace)
	c.settled(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { _, err := c.update(ctx, w.bundles[release]); ended <- err }()
	at := time.Duration(rng.Int64N(int64(took)))
	time.Sleep(at)
	c.kill(t)
	cancel()
	<-ended
	loss := disktest.Loss{}
	if lose {
		loss = w.lose(t, c, trace, rng)
	}
	before, _, err := rom.History(c.Paths)
	if err != nil {
		t.Fatalf("history after a kill: %v", err)
	}
	copied := filepath.Join(w.dir, "copy", filepath.Base(c.Paths.Flash()))
	if err := os.MkdirAll(filepath.Dir(copied), 0o700); err != nil {
		t.Fatal(err)
	}
	need(t, "cp", "--sparse=always", c.Paths.Flash(), copied)
	if err := w.check(t, c, copied, loss); err != nil {
		t.Fatalf("killed after %s, %s: %v; the disk is %s", at, loss, err, keep(t, c.Paths.Flash()))
	}
	c.power(t, "")
	st := c.settled(t)
	if !slices.Contains(w.releases, st.Firmware.Version) {
		t.Fatalf("killed after %s: release %q runs", at, st.Firmware.Version)
	}
	w.finish(t, c, release)
	if after, _, err := rom.History(c.Paths); err != nil || len(after) <= len(before) {
		t.Errorf("history: %d entries, then %d, %v", len(before), len(after), err)
	}
	c.down(t)
	t.Logf("killed %.1f s into an update, %s; release %s ran; the same command finished", at.Seconds(), loss, st.Firmware.Version)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count.kills++
	if lose {
		w.count.killsLost++
	}
}

// lose replaces the card's flash by what a power failure leaves of it.
func (w *world) lose(t *testing.T, c *card, trace string, rng *rand.Rand) disktest.Loss {
	t.Helper()
	tr, err := disktest.OpenTrace(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	tr.Block = diskBlock
	next := c.Paths.Flash() + ".next"
	loss, err := tr.CutAt(tr.Len(), next, rng)
	if err == nil {
		err = os.Rename(next, c.Paths.Flash())
	}
	if err != nil {
		t.Fatal(err)
	}
	return loss
}
