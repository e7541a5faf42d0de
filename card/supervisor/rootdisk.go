package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/machine"
)

// diskBytes is the size of a card's disk, which is sparse. The card makes its root as large.
const diskBytes = 2 << 30

// rootOption is the kernel's argument for a root on the card's only disk.
const rootOption = "root=/dev/vda"

// bringDisk opens the disk of a card whose edition has a root, and makes it where there is none. The
// card keeps the image that its disk was made of, because the root has the modules of its kernel: the
// files that a machine boots are beside the disk.
func (w *world) bringDisk(ctx context.Context, img *Image) error {
	if img.Root == "" {
		return nil
	}
	dir := w.paths.Disk()
	if err := atomicfile.ReadJSON(filepath.Join(dir, "image.json"), img); errors.Is(err, fs.ErrNotExist) {
		w.board.setStage("making the card's disk")
		if err := makeDisk(ctx, dir, *img); err != nil {
			return fmt.Errorf("disk: %w", err)
		}
	} else if err != nil {
		return fmt.Errorf("disk: %w; fix: `toe rm %s` makes the card and its disk anew", err, w.name)
	}
	img.Kernel, img.Initrd = filepath.Join(dir, "kernel"), filepath.Join(dir, "initramfs")
	d := Device{Name: "disk", Socket: w.paths.Vhost("disk")}
	event := func(text string) { w.board.deviceEvent(d.Name, "%s", text) }
	k, err := w.parts.Disk(d, filepath.Join(dir, "root.ext4"), event)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.disk, w.disks = k, []machine.Disk{{Name: d.Name, Socket: d.Socket}}
	w.mu.Unlock()
	w.task(func() {
		if err := k.Serve(context.Background()); err != nil {
			w.board.event("disk: %v", err)
			w.board.trouble("disk", err.Error())
		}
	})
	return nil
}

// makeDisk makes the disk of an image, all of it or nothing.
func makeDisk(ctx context.Context, dir string, img Image) error {
	next := dir + ".new"
	if err := errors.Join(os.RemoveAll(next), os.Mkdir(next, 0o700)); err != nil {
		return err
	}
	defer os.RemoveAll(next)
	disk, err := os.OpenFile(filepath.Join(next, "root.ext4"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer disk.Close()
	if err := disk.Truncate(diskBytes); err != nil {
		return err
	}
	if _, err := firmware.WriteRoot(ctx, img.Root, disk, diskBytes, nil); err != nil {
		return err
	}
	if err := disk.Sync(); err != nil {
		return err
	}
	if err := copyFile(img.Kernel, filepath.Join(next, "kernel"), 0o755); err != nil {
		return err
	}
	if err := copyFile(img.Initrd, filepath.Join(next, "initramfs"), 0o644); err != nil {
		return err
	}
	img.InUse = nil
	if err := atomicfile.WriteJSON(filepath.Join(next, "image.json"), img); err != nil {
		return err
	}
	if err := os.Rename(next, dir); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

func copyFile(from, to string, mode fs.FileMode) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return atomicfile.WriteFunc(to, mode, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
}
