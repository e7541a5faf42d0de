package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// plan is what is to be copied: directories before what is in them.
type plan struct {
	o       *Options
	res     *Result
	entries []entry
	bytes   int64
}

// add appends an entry, or returns the bound that it would break.
func (p *plan) add(e entry) error {
	if len(p.entries) == maxEntries {
		return fmt.Errorf("more than %d files and directories", maxEntries)
	}
	p.entries = append(p.entries, e)
	if e.kind == 0 {
		if most := p.o.MaxBytes; most > 0 && e.size > most-p.bytes {
			return tooMuch(most)
		}
		p.bytes += e.size
	}
	return nil
}

func tooMuch(most int64) error {
	return fmt.Errorf("more than %d bytes; --max-size takes another bound", most)
}

// lister is one side of a copy, to be planned.
type lister interface {
	stat(path string) (fs.FileInfo, error) // of what a symbolic link leads to
	list(ctx context.Context, path string) ([]fs.FileInfo, error)
	readlink(path string) (string, error)
	// check judges an entry by its name and where a link leads; depth is 0 for the source itself.
	check(name, link string, depth int) error
	join(dir, name string) string
}

// source adds a source and what is in it. to is its name in the target directory.
func (p *plan) source(ctx context.Context, side lister, from, to string) error {
	info, err := side.stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() && !p.o.Recursive {
		return ErrDirectory
	}
	e, err := newEntry(from, to, info)
	if err != nil {
		return err
	}
	if e.kind == fs.ModeSymlink {
		return errors.New("is a symbolic link to a symbolic link")
	}
	if err := p.add(e); err != nil || !info.IsDir() {
		return err
	}
	return p.directory(ctx, side, e, 0)
}

func newEntry(from, to string, info fs.FileInfo) (entry, error) {
	e := entry{from: from, to: to, kind: info.Mode().Type(), perm: info.Mode().Perm()}
	switch e.kind {
	case 0:
		if e.size = info.Size(); e.size < 0 {
			return e, fmt.Errorf("size %d: want 0 or more", e.size)
		}
	case fs.ModeDir, fs.ModeSymlink:
	default:
		return e, errors.New("is neither a file, a directory nor a symbolic link")
	}
	return e, nil
}

// directory adds what is in dir. An entry that cannot be copied is a problem, and the others
// are copied.
func (p *plan) directory(ctx context.Context, side lister, dir entry, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	infos, err := side.list(ctx, dir.from)
	if err != nil {
		return fmt.Errorf("%s: %w", dir.from, err)
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return strings.Compare(a.Name(), b.Name()) })
	for i, info := range infos {
		if i > 0 && infos[i-1].Name() == info.Name() {
			p.o.problem(p.res, side.join(dir.from, info.Name()), errors.New("is there twice"))
			continue
		}
		e, err := p.member(side, dir, info, depth)
		if err != nil {
			p.o.problem(p.res, dir.from+"/"+info.Name(), err)
			continue
		}
		if err := p.add(e); err != nil {
			return err
		}
		if e.kind != fs.ModeDir {
			continue
		}
		if depth+1 == maxDepth {
			return fmt.Errorf("%s: more than %d directories in each other", e.from, maxDepth)
		}
		if err := p.directory(ctx, side, e, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// member checks one entry of dir.
func (p *plan) member(side lister, dir entry, info fs.FileInfo, depth int) (entry, error) {
	name := info.Name()
	if err := side.check(name, "", depth); err != nil {
		return entry{}, err
	}
	e, err := newEntry(side.join(dir.from, name), path.Join(dir.to, name), info)
	if err != nil || e.kind != fs.ModeSymlink {
		return e, err
	}
	if e.link, err = side.readlink(e.from); err != nil {
		return e, err
	}
	return e, side.check(name, e.link, depth)
}

// cardLister lists the files of a card, which is hostile.
type cardLister struct{ c *Card }

func (l cardLister) stat(path string) (fs.FileInfo, error) { return l.c.Stat(path) }
func (l cardLister) readlink(path string) (string, error)  { return l.c.ReadLink(path) }
func (l cardLister) join(dir, name string) string          { return path.Join(dir, name) }

func (l cardLister) list(ctx context.Context, path string) (infos []fs.FileInfo, err error) {
	err = l.c.in.within(l.c.list, func() (err error) {
		infos, err = l.c.ReadDirContext(ctx, path)
		return err
	})
	return infos, l.c.cause(err)
}

func (l cardLister) check(name, link string, depth int) error {
	if err := checkName(name); err != nil || link == "" {
		return err
	}
	return checkLink(link, depth)
}

// hostLister lists the files of this host.
type hostLister struct{}

func (hostLister) stat(path string) (fs.FileInfo, error) { return os.Stat(path) }
func (hostLister) readlink(path string) (string, error)  { return os.Readlink(path) }
func (hostLister) join(dir, name string) string          { return filepath.Join(dir, name) }
func (hostLister) check(_, _ string, _ int) error        { return nil }

func (hostLister) list(_ context.Context, path string) ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	infos := make([]fs.FileInfo, 0, len(entries))
	for _, e := range entries {
		if info, err := e.Info(); err == nil { // one that is gone by now is not there
			infos = append(infos, info)
		}
	}
	return infos, nil
}
