package rom

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/store/storetest"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/firmware/firmwaretest"
	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/machine"
)

// newROM makes a flash with release one in slot A.
func newROM(t *testing.T) (*ROM, store.Paths) {
	t.Helper()
	p := storetest.Card(t, "").Paths
	img := firmwaretest.Debian(t, p.Cache, "one", machine.Fake)
	if err := Create(t.Context(), p, img, flash.MinSize, nil); err != nil {
		t.Fatal(err)
	}
	return open(t, p), p
}

func open(t *testing.T, p store.Paths) *ROM {
	t.Helper()
	r, err := Open(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// install writes a release to a slot, as an update does: marked bad, written, made the first.
func install(t *testing.T, r *ROM, s flash.Slot, release string) *firmware.Image {
	t.Helper()
	img := firmwaretest.Debian(t, r.cache, release, machine.Fake)
	if err := r.change(flash.Env{"BOOT_" + string(s) + "_LEFT": "0"}); err != nil {
		t.Fatal(err)
	}
	if _, err := writeBoot(r.file, r.table.Find(s.Boot()), img); err != nil {
		t.Fatal(err)
	}
	if err := r.change(flash.Env{}.Preferred(s)); err != nil {
		t.Fatal(err)
	}
	return img
}

func boot(t *testing.T, r *ROM) Start {
	t.Helper()
	s, err := r.Boot(t.Context(), Hardware{Machine: string(machine.Fake)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCreateAndBoot(t *testing.T) {
	r, p := newROM(t)
	s := boot(t, r)
	if s.Slot != flash.A || s.Trial || s.Image.Version != "7.3-one" {
		t.Fatalf("started %q, trial %v, %+v", s.Slot, s.Trial, s.Image)
	}
	files, err := s.Image.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	if kernel, err := os.ReadFile(files.Kernel); err != nil || string(kernel) != "kernel one" {
		t.Errorf("kernel %q, %v", kernel, err)
	}
	root := make([]byte, 8)
	if _, err := r.table.Find(flash.A.Root()).Reader(r.file).ReadAt(root, 0); err != nil || string(root) != "root one" {
		t.Errorf("root %q, %v", root, err)
	}
	st, err := r.Status("x")
	if err != nil || st.Size != flash.MinSize || st.OnDisk > 4<<20 || len(st.Slots) != 2 {
		t.Fatalf("status %+v, %v", st, err)
	}
	if a := st.Slots[0]; a.State != "good" || !a.Active || !a.Primary || a.Attempts != 3 || a.Version != "7.3-one" {
		t.Errorf("slot A: %+v", a)
	}
	if b := st.Slots[1]; b.State != "broken" || b.Reason != "empty" || b.Active || b.Primary {
		t.Errorf("slot B: %+v", b)
	}
	if left, _ := filepath.Glob(filepath.Join(p.State, ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// An interrupted or impossible creation leaves no flash and no other file.
func TestCreateLeavesNothing(t *testing.T) {
	p := storetest.Card(t, "").Paths
	img := firmwaretest.Debian(t, p.Cache, "one", machine.Fake)
	ctx, cancel := context.WithCancel(t.Context())
	files, err := img.Files(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	cancel()
	if err := Create(ctx, p, img, flash.MinSize, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if err := Create(t.Context(), p, img, 1<<20, nil); err == nil {
		t.Error("a flash of 1 MiB was made")
	}
	if _, err := Open(p); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(p.State, ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A slot whose image is damaged anywhere is passed over before anything of it is used, and the
// reason names the partition (complaint 6: nothing says why it rolled back).
func TestDamagedSlotIsPassedOver(t *testing.T) {
	r, _ := newROM(t)
	boot(t, r)
	install(t, r, flash.B, "two")
	p := r.table.Find(flash.B.Boot())
	text := make([]byte, 64<<10)
	if _, err := p.Reader(r.file).ReadAt(text, 0); err != nil {
		t.Fatal(err)
	}
	at := p.Offset + int64(bytes.Index(text, []byte("initramfs two")))
	if _, err := r.file.WriteAt([]byte("X"), at); err != nil {
		t.Fatal(err)
	}
	s := boot(t, r)
	if s.Slot != flash.A || s.Trial || !strings.Contains(s.Why, "slot B: partition boot-b: not a valid firmware image") {
		t.Errorf("started %q: %s", s.Slot, s.Why)
	}
	if env, err := r.Env(); err != nil || env.Left(flash.B) != 3 {
		t.Errorf("a slot that was not started lost an attempt: %v, %v", env, err)
	}
}

// Complaint 12: an image for another generation or processor is accepted.
func TestImageForAnotherMachineIsPassedOver(t *testing.T) {
	r, _ := newROM(t)
	install(t, r, flash.B, "two")
	s, err := r.Boot(t.Context(), Hardware{Machine: "kvm"})
	if err != nil || s.Slot != "" || !strings.Contains(s.Why, "this one is kvm") {
		t.Errorf("started %q, %q, %v", s.Slot, s.Why, err)
	}
	s, err = r.Boot(t.Context(), Hardware{Machine: "fake", Arch: "vax"})
	if err != nil || s.Slot != "" || !strings.Contains(s.Why, "this machine has vax") {
		t.Errorf("started %q, %q, %v", s.Slot, s.Why, err)
	}
}

func TestBothSlotsBadIsRescue(t *testing.T) {
	r, _ := newROM(t)
	boot(t, r)
	if err := r.change(flash.Env{"BOOT_A_LEFT": "0"}); err != nil {
		t.Fatal(err)
	}
	s := boot(t, r)
	if s.Slot != "" || s.Image != nil || s.Why != "slot A: marked bad; slot B: empty; no slot can be started" || !s.Switched {
		t.Errorf("%+v", s)
	}
	if again := boot(t, r); again.Switched || again.Slot != "" {
		t.Errorf("the second start in the rescue system is news: %+v", again)
	}
}

func TestTrialAndVerdict(t *testing.T) {
	r, _ := newROM(t)
	boot(t, r)
	img := install(t, r, flash.B, "two")
	s := boot(t, r)
	if s.Slot != flash.B || !s.Trial || s.From != flash.A || !s.Switched || s.Env.Left(flash.B) != 2 {
		t.Fatalf("%+v", s)
	}
	if good, err := r.IsGood(s); good || err != nil {
		t.Errorf("good %v, %v before the verdict", good, err)
	}
	if err := r.change(flash.Marked(flash.B, s.Image.Digest())); err != nil {
		t.Fatal(err)
	}
	if good, err := r.IsGood(s); !good || err != nil {
		t.Errorf("good %v, %v after the verdict", good, err)
	}
	if back, err := r.GiveBack(s); back || err != nil {
		t.Errorf("an attempt was given back to a good slot: %v, %v", back, err)
	}
	if next := boot(t, r); next.Slot != flash.B || next.Trial || next.Image.Version != img.Version || next.Switched {
		t.Errorf("the next start: %+v", next)
	}
}

func TestGiveBackOnce(t *testing.T) {
	r, _ := newROM(t)
	install(t, r, flash.B, "two")
	s := boot(t, r)
	for range 2 {
		if back, err := r.GiveBack(s); !back || err != nil {
			t.Fatalf("given back %v, %v", back, err)
		}
		if env, err := r.Env(); err != nil || env.Left(flash.B) != 3 {
			t.Fatalf("%v, %v", env, err)
		}
	}
}

func TestRollback(t *testing.T) {
	r, _ := newROM(t)
	boot(t, r)
	if _, err := r.Rollback(Hardware{Machine: "fake"}, ""); err == nil || !strings.Contains(err.Error(), "slot B: empty") {
		t.Errorf("to an empty slot: %v", err)
	}
	install(t, r, flash.B, "two")
	s := boot(t, r)
	if err := r.change(flash.Marked(flash.B, s.Image.Digest())); err != nil {
		t.Fatal(err)
	}
	if to, err := r.Rollback(Hardware{Machine: "fake"}, ""); to != flash.A || err != nil {
		t.Fatalf("back to %q, %v", to, err)
	}
	if s := boot(t, r); s.Slot != flash.A || s.Trial || s.From != flash.B {
		t.Errorf("after the rollback: %+v", s)
	}
	// A bad slot is started again only by its name; from the rescue system that is the way back.
	if err := r.change(flash.Env{"BOOT_A_LEFT": "0", "BOOT_B_LEFT": "0"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Rollback(Hardware{}, ""); err == nil || !strings.Contains(err.Error(), "slot B: marked bad") {
		t.Errorf("to a bad slot: %v", err)
	}
	if s := boot(t, r); s.Slot != "" {
		t.Fatalf("%+v", s)
	}
	if _, err := r.Rollback(Hardware{}, ""); err == nil || !strings.Contains(err.Error(), "name a slot") {
		t.Errorf("from the rescue system: %v", err)
	}
	if to, err := r.Rollback(Hardware{}, flash.A); to != flash.A || err != nil {
		t.Errorf("to slot A: %q, %v", to, err)
	}
	if s := boot(t, r); s.Slot != flash.A || s.Trial {
		t.Errorf("after the rescue system: %+v", s)
	}
}

func TestClearData(t *testing.T) {
	r, _ := newROM(t)
	p := r.table.Find(flash.DataName)
	if _, err := r.file.WriteAt([]byte("secret"), p.Offset+4096); err != nil {
		t.Fatal(err)
	}
	before := sumSlots(t, r)
	for name, clear := range map[string]func() error{"hole": r.ClearData, "zeros": func() error { return r.zero(p) }} {
		if err := clear(); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 64<<10)
		if _, err := p.Reader(r.file).ReadAt(b, 0); err != nil || !bytes.Equal(b, make([]byte, len(b))) {
			t.Errorf("%s: data is left: %v", name, err)
		}
	}
	if !bytes.Equal(before, sumSlots(t, r)) {
		t.Error("a slot has changed")
	}
}

// sumSlots returns the beginning of everything but the data.
func sumSlots(t *testing.T, r *ROM) []byte {
	var all bytes.Buffer
	for _, name := range []string{flash.EnvName, "boot-a", "rootfs-a", "boot-b", "rootfs-b"} {
		if _, err := io.CopyN(&all, r.table.Find(name).Reader(r.file), 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	return all.Bytes()
}

// Complaint 13: after a power loss the update's own database is corrupt.
func TestHistorySurvivesTornLines(t *testing.T) {
	p := storetest.Card(t, "").Paths
	record := func(what string) {
		if err := Record(p, status.FirmwareEvent{Who: "me", What: what, Output: "\x1b[31mred"}); err != nil {
			t.Fatal(err)
		}
	}
	record("one")
	whole, err := os.ReadFile(p.FirmwareHistory())
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) { // the second entry was torn after cut bytes
		if err := os.WriteFile(p.FirmwareHistory(), append(bytes.Clone(whole), whole[:cut]...), 0o600); err != nil {
			t.Fatal(err)
		}
		record("two")
		events, torn, err := History(p)
		if err != nil || len(events) < 2 || events[0].What != "one" || events[len(events)-1].What != "two" || torn > 1 {
			t.Fatalf("torn after %d bytes: %v, %d torn, %v", cut, events, torn, err)
		}
	}
	if strings.Contains(string(whole), "\x1b") {
		t.Errorf("a control character is in the history: %s", whole)
	}
}

// The history is appended to, and its file does not grow without end.
func TestHistoryIsBounded(t *testing.T) {
	p := storetest.Card(t, "").Paths
	if err := os.WriteFile(p.FirmwareHistory(), bytes.Repeat([]byte("x\n"), maxHistory/2+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Record(p, status.FirmwareEvent{What: "one", Console: strings.Repeat("line\n", 10000)}); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(p.FirmwareHistory())
	if err != nil || fi.Size() > 2*maxText {
		t.Errorf("%d bytes, %v", fi.Size(), err)
	}
	if events, _, err := History(p); err != nil || len(events) != 1 {
		t.Errorf("%d entries, %v", len(events), err)
	}
}

// The flash of a card with zero_trust is its administrators'.
func TestZeroTrust(t *testing.T) {
	r, _ := newROM(t)
	boot(t, r)
	install(t, r, flash.B, "two")
	if err := r.change(flash.Env{flash.ZeroTrustVar: "1"}); err != nil {
		t.Fatal(err)
	}
	before := sumSlots(t, r)
	if _, err := GoBack(r, "me", Hardware{}, flash.B); !errors.Is(err, ErrZeroTrust) {
		t.Errorf("rollback: %v", err)
	}
	if _, err := FactoryReset(r, "me"); !errors.Is(err, ErrZeroTrust) || !strings.Contains(err.Error(), "zero_trust") {
		t.Errorf("factory reset: %v", err)
	}
	if !bytes.Equal(before, sumSlots(t, r)) {
		t.Error("the flash has changed")
	}
	if s := boot(t, r); s.Slot != flash.B || !s.Env.ZeroTrust() {
		t.Errorf("the boot ROM: %+v", s)
	}
}
