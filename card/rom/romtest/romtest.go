// Package romtest makes and changes flashes for tests, as a card does.
package romtest

import (
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/firmware/firmwaretest"
	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/machine"
)

// Create makes a card's flash, of the smallest size, with a release in slot A.
func Create(t testing.TB, p store.Paths, release string, kinds ...machine.Kind) {
	t.Helper()
	img := firmwaretest.Debian(t, p.Cache, release, kinds...)
	if err := rom.Create(t.Context(), p, img, flash.MinSize, nil); err != nil {
		t.Fatal(err)
	}
}

// Flash opens a card's flash and its table.
func Flash(t testing.TB, p store.Paths) (*os.File, flash.Table) {
	t.Helper()
	f, err := os.OpenFile(p.Flash(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := flash.Read(f, fi.Size())
	if err != nil {
		t.Fatal(err)
	}
	return f, table
}

type storage struct {
	*io.SectionReader
	*io.OffsetWriter
	*os.File
}

func (s storage) ReadAt(b []byte, off int64) (int, error)  { return s.SectionReader.ReadAt(b, off) }
func (s storage) WriteAt(b []byte, off int64) (int, error) { return s.OffsetWriter.WriteAt(b, off) }

// Env reads the boot environment.
func Env(t testing.TB, p store.Paths) flash.Env {
	t.Helper()
	f, table := Flash(t, p)
	env, err := flash.ReadEnv(table.Find(flash.EnvName).Reader(f))
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// Change changes the boot environment, as fw_setenv on the card does.
func Change(t testing.TB, p store.Paths, changes flash.Env) {
	t.Helper()
	f, table := Flash(t, p)
	at := table.Find(flash.EnvName)
	s := storage{at.Reader(f), io.NewOffsetWriter(f, at.Offset), f}
	if err := flash.WriteEnv(s, Env(t, p).With(changes)); err != nil {
		t.Fatal(err)
	}
}

// Install writes a release to a slot and makes it the first, as an update does. It returns the digest
// of the slot.
func Install(t testing.TB, p store.Paths, s flash.Slot, release string, kinds ...machine.Kind) string {
	t.Helper()
	return InstallImage(t, p, s, firmwaretest.Debian(t, p.Cache, release, kinds...))
}

// InstallImage is Install of an image that a machine can boot, with its root.
func InstallImage(t testing.TB, p store.Paths, s flash.Slot, img *firmware.Image) string {
	t.Helper()
	Change(t, p, flash.Env{"BOOT_" + string(s) + "_LEFT": "0", "BOOT_" + string(s) + "_GOOD": ""})
	f, table := Flash(t, p)
	digest, _, err := img.WriteBoot(io.NewOffsetWriter(f, table.Find(s.Boot()).Offset))
	if err != nil {
		t.Fatal(err)
	}
	files, err := img.Files(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	root := table.Find(s.Root())
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, root.Offset, root.Size)
	if err == nil {
		_, err = firmware.WriteRoot(t.Context(), files.Root, io.NewOffsetWriter(f, root.Offset), root.Size, nil)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	Change(t, p, flash.Env{}.Preferred(s))
	return digest
}
