// Package rom is the boot ROM of a card with a flash. It makes the flash, chooses the slot to start by
// the rules of package flash, checks what it holds, and keeps the history of the card's firmware. A
// card that does not run is asked and changed by the same functions.
//
// A card's machine must be off while the environment is written: the card's kernel would not see
// it. So every change waits for the next start (supervisor).
package rom

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/flash"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/progress"
)

// ROM is an open flash.
type ROM struct {
	file  *os.File
	size  int64
	table flash.Table
	cache string
}

// Open opens the card's flash. Errors: fs.ErrNotExist, flash.ErrInvalid.
func Open(p store.Paths) (*ROM, error) {
	f, err := os.OpenFile(p.Flash(), os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	r := &ROM{file: f, cache: p.Cache}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s: want a regular file", p.Flash())
	}
	if err == nil {
		r.size = fi.Size()
		r.table, err = flash.Read(f, r.size)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("flash %s: %w", p.Flash(), err)
	}
	return r, nil
}

// Close closes the file.
func (r *ROM) Close() error { return r.file.Close() }

// Path returns the file of the flash.
func (r *ROM) Path() string { return r.file.Name() }

// Create makes a card's flash of about size bytes, with img in slot A. The slot counts as good: there is
// nothing to fall back to. The file appears when it is complete, and not after an error.
func Create(ctx context.Context, p store.Paths, img *firmware.Image, size int64, prog *progress.Progress) error {
	sizes, err := flash.SizesOf(size)
	if err != nil {
		return err
	}
	files, err := img.Files(ctx)
	if err != nil {
		return err
	}
	defer files.Close()
	stage := prog.Bytes("writing the flash", 0)
	err = atomicfile.Make(p.Flash(), 0o600, func(f *os.File) error {
		return fill(ctx, f, sizes, img, files, func(n int64) { stage.Add(n) })
	})
	stage.Fail(err)
	if err != nil {
		return fmt.Errorf("flash %s: %w", p.Flash(), err)
	}
	return nil
}

func fill(
	ctx context.Context, f *os.File, sizes flash.Sizes, img *firmware.Image, files *firmware.Files, count func(int64),
) error {
	if err := flash.Create(f, sizes); err != nil {
		return err
	}
	table, err := flash.Read(f, sizes.Total())
	if err != nil {
		return err
	}
	boot, root := table.Find(flash.A.Boot()), table.Find(flash.A.Root())
	digest, err := writeBoot(f, boot, img)
	if err != nil {
		return err
	}
	if files.Root == "" {
		return fmt.Errorf("edition %s has no root file system for a flash", img.Edition)
	}
	if _, err := firmware.WriteRoot(ctx, files.Root, io.NewOffsetWriter(f, root.Offset), root.Size, count); err != nil {
		return err
	}
	env := flash.Env{}.With(flash.Env{}.Preferred(flash.A)).With(flash.Marked(flash.A, digest))
	return flash.WriteEnv(storage{f, table.Find(flash.EnvName)}, env)
}

// writeBoot writes the image file of a boot slot, and refuses one that is larger than its partition.
func writeBoot(f *os.File, p flash.Partition, img *firmware.Image) (digest string, err error) {
	w := &limited{w: io.NewOffsetWriter(f, p.Offset), left: p.Size}
	digest, _, err = img.WriteBoot(w)
	return digest, err
}

// limited is a writer with an end.
type limited struct {
	w    io.Writer
	left int64 // bytes
}

var errFull = errors.New("the image is larger than the boot partition")

func (l *limited) Write(b []byte) (int, error) {
	if int64(len(b)) > l.left {
		return 0, errFull
	}
	n, err := l.w.Write(b)
	l.left -= int64(n)
	return n, err
}

// storage is a partition for flash.WriteEnv.
type storage struct {
	f *os.File
	p flash.Partition
}

func (s storage) ReadAt(b []byte, off int64) (int, error) { return s.p.Reader(s.f).ReadAt(b, off) }

func (s storage) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > s.p.Size {
		return 0, fmt.Errorf("write outside of partition %s: %w", s.p.Name, fs.ErrInvalid)
	}
	return s.f.WriteAt(b, s.p.Offset+off)
}

func (s storage) Sync() error { return unix.Fdatasync(int(s.f.Fd())) }

func (r *ROM) env() storage { return storage{r.file, r.table.Find(flash.EnvName)} }

// Env returns the boot environment; an empty one where there is no valid copy, as U-Boot does.
func (r *ROM) Env() (flash.Env, error) {
	env, err := flash.ReadEnv(r.env())
	if errors.Is(err, flash.ErrNoEnv) {
		return flash.Env{}, nil
	}
	return env, err
}

// change applies changes to the environment. The card's machine must be off.
func (r *ROM) change(changes flash.Env) error {
	env, err := r.Env()
	if err != nil || len(changes) == 0 {
		return err
	}
	return flash.WriteEnv(r.env(), env.With(changes))
}

// image reads the manifest of a slot.
func (r *ROM) image(s flash.Slot) (*firmware.Image, error) {
	p := r.table.Find(s.Boot())
	if empty(p.Reader(r.file)) {
		return nil, errEmpty
	}
	img, err := firmware.OpenSlot(p.Reader(r.file), r.cache)
	if err != nil {
		return nil, fmt.Errorf("partition %s: %w", p.Name, err)
	}
	return img, nil
}

var errEmpty = errors.New("empty")

func empty(r io.ReaderAt) bool {
	b := make([]byte, 512)
	_, err := r.ReadAt(b, 0)
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return err == nil
}

func held(img *firmware.Image, err error) flash.Held {
	if err != nil {
		return flash.Held{Err: err}
	}
	return flash.Held{Digest: img.Digest(), Version: img.Version}
}

// Status describes the flash and its slots.
func (r *ROM) Status(name string) (status.Flash, error) {
	st := status.Flash{Name: name, Size: r.size, Slots: []status.Slot{}}
	if fi, err := r.file.Stat(); err == nil {
		if s, ok := fi.Sys().(*syscall.Stat_t); ok {
			st.OnDisk = s.Blocks * 512
		}
	}
	env, err := flash.ReadEnv(r.env())
	if errors.Is(err, flash.ErrNoEnv) {
		st.Default, err = err.Error(), nil
	}
	if err != nil {
		return st, err
	}
	order := env.Order()
	for _, s := range flash.Slots {
		img, err := r.image(s)
		state, why := env.State(s, held(img, err))
		slot := status.Slot{
			Name: string(s), State: string(state), Reason: why, Attempts: env.Left(s),
			Active: env.Last() == s, Primary: len(order) > 0 && order[0] == s,
		}
		if img != nil {
			slot.Edition, slot.Version, slot.Kernel, slot.Digest = string(img.Edition), img.Version, img.Kernel, img.Digest()
		}
		st.Slots = append(st.Slots, slot)
	}
	return st, nil
}
