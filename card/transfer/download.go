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
	"strings"
)

// Download copies sources, paths on the card, to a path of the host: into it where it is a
// directory, else under that name. An error ends the copy; what o.Problem is told does not.
func Download(ctx context.Context, c *Card, sources []string, to string, o Options) (Result, error) {
	var res Result
	dir, name, err := place(to, len(sources), func(p string) (fs.FileInfo, error) { return os.Stat(p) })
	if err != nil {
		return res, err
	}
	p := &plan{o: &o, res: &res}
	looking := o.Progress.Stage("listing the files", 0)
	for _, from := range sources {
		into := name
		if into == "" {
			if into, err = lastName(from); err != nil {
				return res, err
			}
		}
		if err := p.source(ctx, cardLister{c}, from, into); err != nil {
			return res, fmt.Errorf("%s: %w", from, c.cause(err))
		}
	}
	looking.Done("")
	root, err := os.OpenRoot(dir)
	if err != nil {
		return res, err
	}
	defer root.Close()
	open := func(e entry) (io.ReadCloser, error) { return c.Open(e.from) }
	return res, p.carryOut(ctx, c, open, hostTarget{root})
}

// place splits a target: a directory, and the name in it, which is empty where each source
// keeps its own.
func place(to string, sources int, stat func(string) (fs.FileInfo, error)) (dir, name string, err error) {
	info, err := stat(to)
	switch {
	case err == nil && info.IsDir():
		return to, "", nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", "", err
	case sources > 1 || strings.HasSuffix(to, "/"):
		return "", "", fmt.Errorf("%s: want a directory that exists", to)
	}
	if dir, name = path.Split(to); dir == "" {
		dir = "."
	}
	info, err = stat(dir)
	if err == nil && !info.IsDir() {
		err = errors.New("is no directory")
	}
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", dir, err)
	}
	return dir, name, nil
}

// lastName is the name that a source keeps.
func lastName(from string) (string, error) {
	name := path.Base(from)
	if checkName(name) != nil {
		return "", fmt.Errorf("%s: want a path that ends in a name, or a target that does not exist", from)
	}
	return name, nil
}

// hostTarget writes below one directory of the host.
type hostTarget struct{ root *os.Root }

func (t hostTarget) mkdir(name string) (bool, error) {
	err := t.root.Mkdir(filepath.FromSlash(name), 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err == nil, err
	}
	info, err := t.root.Lstat(name)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is there, and is no directory", filepath.Join(t.root.Name(), name))
	}
	return false, err
}

func (t hostTarget) write(name string, e entry, fill func(io.Writer) error) (err error) {
	temp := temporary(name)
	f, err := t.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = t.root.Remove(temp)
		}
	}()
	err = fill(f)
	if err == nil {
		err = f.Chmod(e.perm)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return t.root.Rename(temp, name)
}

func (t hostTarget) symlink(name, link string) error {
	temp := temporary(name)
	if err := t.root.Symlink(link, temp); err != nil {
		return err
	}
	err := t.root.Rename(temp, name)
	if err != nil {
		_ = t.root.Remove(temp)
	}
	return err
}

func (t hostTarget) chmod(name string, perm fs.FileMode) error { return t.root.Chmod(name, perm) }
