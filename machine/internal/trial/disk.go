package trial

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/disk"
	"github.com/toe-project/toe/disk/disktest"
	"github.com/toe-project/toe/machine"
)

// newImage makes the file of a disk of 1 MiB, filled with 'x'.
func newImage(t testing.TB) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, bytes.Repeat([]byte{'x'}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return image
}

// withDisk adds a disk to a spec. The trial's init must do=disk.
func withDisk(t testing.TB, s *machine.Spec, image string, readOnly bool, o disk.Options) *disk.Keeper {
	t.Helper()
	f, err := disk.Open(image, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	k, err := disk.NewKeeper(disk.Disk{Name: "flash", Socket: socket, File: f, ReadOnly: readOnly}, o)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- k.Serve(t.Context()) }()
	t.Cleanup(func() {
		k.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	s.Disks = []machine.Disk{{Name: "flash", Socket: socket}}
	return k
}

// Disk checks a machine's disk: the card's kernel sees its size, takes its cache for write-back, and
// flushes. What it was told is flushed is in the file after the machine is killed, also where the
// disk's worker was killed in between.
func Disk(t *testing.T, m machine.Machine, s machine.Spec, limit time.Duration) {
	image := newImage(t)
	k := withDisk(t, &s, image, false, disk.Options{})
	card := Start(t, m, s)
	for _, line := range []string{
		"trial: size: 2048 ", "trial: ro: 0 ", "trial: queue/write_cache: write back ", "trial: serial: flash ",
		"trial: first block of 'x'", "trial: flushed 1 at 65536",
	} {
		card.Await(t, line, limit)
	}
	for range 3 {
		if err := syscall.Kill(k.WorkerPID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		seen := strings.Count(card.Said(), "trial: flushed")
		for end := time.Now().Add(limit); strings.Count(card.Said(), "trial: flushed") < seen+20; {
			if time.Now().After(end) {
				t.Fatalf("the card does not go on after its disk's worker was killed:\n%s", card.Said())
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if err := syscall.Kill(card.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	card.Ends(t, machine.Killed, 10*time.Second)
	told, flushes := flushed(card.Said())
	check(t, image, told)
	if n := k.Stats().Flushes; n < flushes {
		t.Errorf("%d flushes reached the file, the card was told of %d", n, flushes)
	}
}

// check checks that a disk has what the card was told is flushed.
func check(t *testing.T, image string, told map[int]byte) {
	t.Helper()
	file, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	for at, round := range told {
		for i, b := range file[at : at+64<<10] {
			// The card may have written the next round already, and not been told yet.
			if b != round && b != round+1 {
				t.Errorf("byte %d of the block at %d: %d, want %d, which was flushed", i, at, b, round)
				break
			}
		}
	}
}

// PowerCut checks that what a card was told is flushed is on its disk after a power failure, however
// much of what it wrote later is lost.
func PowerCut(t *testing.T, m machine.Machine, s machine.Spec, limit time.Duration) {
	image := newImage(t)
	r, err := disktest.Record(image, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	withDisk(t, &s, image, false, disk.Options{Launch: disktest.Launch(r.Wrap)})
	card := Start(t, m, s)
	card.Await(t, "trial: flushed 2 at 131072", limit)
	if err := syscall.Kill(card.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	card.Ends(t, machine.Killed, 10*time.Second)
	told, _ := flushed(card.Said())
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		after := filepath.Join(t.TempDir(), "after")
		loss, err := r.Cut(after, rng)
		if err != nil {
			t.Fatal(err)
		}
		if check(t, after, told); t.Failed() {
			t.Fatal(loss)
		}
	}
}

// flushed returns the round of each block that the card was told is flushed, and their number.
func flushed(said string) (told map[int]byte, flushes uint64) {
	told = map[int]byte{}
	for line := range strings.Lines(said) {
		var round byte
		var at int
		n, _ := fmt.Sscanf(line, "trial: flushed %d at %d", &round, &at)
		if n == 2 && strings.HasSuffix(line, "\n") {
			told[at] = round
			flushes++
		}
	}
	return told, flushes
}

// ReadOnlyDisk checks that a read-only disk is one for the card's kernel too.
func ReadOnlyDisk(t *testing.T, m machine.Machine, s machine.Spec, limit time.Duration) {
	k := withDisk(t, &s, newImage(t), true, disk.Options{})
	card := Start(t, m, s)
	for _, line := range []string{"trial: ro: 1 ", "trial: first block of 'x'", "trial: disk:"} {
		card.Await(t, line, limit)
	}
	if strings.Contains(card.Said(), "trial: flushed") || k.Stats().Writes != 0 {
		t.Errorf("a read-only disk was written:\n%s", card.Said())
	}
}
