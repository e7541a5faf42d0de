package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
)

// Upload copies sources, paths of the host, to a path on the card, as Download does the other
// way. Symbolic links below a source are copied as they are.
func Upload(ctx context.Context, c *Card, sources []string, to string, o Options) (Result, error) {
	var res Result
	if to == "" {
		to = "." // the home directory
	}
	o.MaxBytes = 0 // the host's files are as large as they are
	dir, name, err := place(to, len(sources), c.Stat)
	if err != nil {
		return res, c.cause(fmt.Errorf("on the card: %w", err))
	}
	p := &plan{o: &o, res: &res}
	for _, from := range sources {
		into := name
		if into == "" {
			if into, err = lastName(filepath.ToSlash(from)); err != nil {
				return res, err
			}
		}
		if err := p.source(ctx, hostLister{}, from, into); err != nil {
			return res, fmt.Errorf("%s: %w", from, err)
		}
	}
	open := func(e entry) (io.ReadCloser, error) { return os.Open(e.from) }
	return res, p.carryOut(ctx, c, open, cardTarget{c, dir})
}

// parallel is how many writes of 32 KiB may be under way.
const parallel = 32

// cardTarget writes below one directory of the card.
type cardTarget struct {
	c   *Card
	dir string
}

func (t cardTarget) mkdir(name string) (bool, error) {
	at := path.Join(t.dir, name)
	err := t.c.Mkdir(at)
	if err == nil {
		return true, nil
	}
	if info, serr := t.c.Stat(at); serr == nil && info.IsDir() {
		return false, nil
	}
	return false, fmt.Errorf("on the card: %s: %w", at, err)
}

func (t cardTarget) write(name string, e entry, fill func(io.Writer) error) (err error) {
	at := path.Join(t.dir, name)
	temp := temporary(at)
	f, err := t.c.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return fmt.Errorf("on the card: %s: %w", temp, err)
	}
	defer func() {
		if err != nil {
			_ = t.c.Remove(temp)
		}
	}()
	if err = t.send(f, fill); err == nil {
		err = f.Chmod(e.perm)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = t.c.PosixRename(temp, at)
	}
	if err != nil {
		return fmt.Errorf("on the card: %s: %w", at, err)
	}
	return nil
}

// send writes many pieces at once, which a File does for what it reads.
func (t cardTarget) send(f interface {
	ReadFromWithConcurrency(io.Reader, int) (int64, error)
}, fill func(io.Writer) error) error {
	r, w := io.Pipe()
	filled := make(chan error, 1)
	go func() {
		err := fill(w)
		w.CloseWithError(err)
		filled <- err
	}()
	_, err := f.ReadFromWithConcurrency(r, parallel)
	r.CloseWithError(err)
	if ferr := <-filled; err == nil {
		err = ferr
	}
	return err
}

func (t cardTarget) symlink(name, link string) error {
	at := path.Join(t.dir, name)
	temp := temporary(at)
	if err := t.c.Symlink(link, temp); err != nil {
		return fmt.Errorf("on the card: %s: %w", at, err)
	}
	if err := t.c.PosixRename(temp, at); err != nil {
		_ = t.c.Remove(temp)
		return fmt.Errorf("on the card: %s: %w", at, err)
	}
	return nil
}

func (t cardTarget) chmod(name string, perm fs.FileMode) error {
	return t.c.Chmod(path.Join(t.dir, name), perm)
}
