package uml

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/disk"
	"github.com/toe-project/toe/machine"
	"github.com/toe-project/toe/machine/internal/trial"
)

// A card's disks come in the order of Spec.Disks, after its network devices.
func TestDiskArguments(t *testing.T) {
	s := machine.Spec{Nets: []machine.Net{{}}, Disks: []machine.Disk{{Socket: "/a"}, {Socket: "/b"}}, Cmdline: "end"}
	want := []string{
		"virtio_uml.device=/net0:1", "virtio_uml.device=/disk0:2", "virtio_uml.device=/disk1:2", "end",
	}
	if args := arguments(s); !slices.Equal(args[len(args)-4:], want) {
		t.Errorf("%q, want %q at the end", args, want)
	}
}

// withDisk adds a disk of 1 MiB to a spec, filled with 'x'.
func withDisk(t testing.TB, s *machine.Spec, readOnly bool) (k *disk.Keeper, image string) {
	t.Helper()
	image = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, bytes.Repeat([]byte{'x'}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := disk.Open(image, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	k, err = disk.NewKeeper(disk.Disk{Name: "flash", Socket: socket, File: f, ReadOnly: readOnly}, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	go k.Serve(t.Context())
	t.Cleanup(func() { k.Close() })
	s.Disks = []machine.Disk{{Name: "flash", Socket: socket}}
	return k, image
}

// The card's kernel sees the disk's size, takes its cache for write-back, and flushes. What it was
// told is flushed is in the file after the machine is killed, also where the worker was killed in
// between.
func TestDisk(t *testing.T) {
	s := spec(t, "disk")
	k, image := withDisk(t, &s, false)
	card := trial.Start(t, New(Config{}), s)
	for _, line := range []string{
		"trial: size: 2048 ", "trial: ro: 0 ", "trial: queue/write_cache: write back ", "trial: serial: flash ",
		`trial: first block of 'x'`, "trial: flushed 1 at 65536",
	} {
		card.Await(t, line, bootLimit)
	}
	for range 3 {
		before := k.WorkerPID()
		if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		seen := strings.Count(card.Said(), "trial: flushed")
		for end := time.Now().Add(bootLimit); strings.Count(card.Said(), "trial: flushed") < seen+20; {
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
	want, flushes := map[int]byte{}, uint64(0)
	for line := range strings.Lines(card.Said()) {
		var round byte
		var at int
		if n, _ := fmt.Sscanf(line, "trial: flushed %d at %d", &round, &at); n == 2 && strings.HasSuffix(line, "\n") {
			want[at] = round
			flushes++
		}
	}
	file, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	for at, round := range want {
		// The card may have written the next round already, and not been told yet.
		if b := file[at]; b != round && b != round+1 {
			t.Errorf("block at %d: %d, want %d, which was flushed", at, b, round)
		}
	}
	if n := k.Stats().Flushes; n < flushes {
		t.Errorf("%d flushes reached the file, the card was told of %d", n, flushes)
	}
}

// A read-only disk is one for the card's kernel too.
func TestReadOnlyDisk(t *testing.T) {
	s := spec(t, "disk")
	k, _ := withDisk(t, &s, true)
	card := trial.Start(t, New(Config{}), s)
	for _, line := range []string{"trial: ro: 1 ", "trial: first block of 'x'", "trial: disk:"} {
		card.Await(t, line, bootLimit)
	}
	if strings.Contains(card.Said(), "trial: flushed") || k.Stats().Writes != 0 {
		t.Errorf("a read-only disk was written:\n%s", card.Said())
	}
}
