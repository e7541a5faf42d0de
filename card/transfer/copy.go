package transfer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/toe-project/toe/internal/progress"
)

// target is the side that a plan is carried out on. A name is below its directory, with slashes.
type target interface {
	mkdir(name string) (made bool, err error)
	// write makes a new file of what f writes; it replaces one of that name, or leaves it as it is.
	write(name string, e entry, f func(w io.Writer) error) error
	symlink(name, link string) error
	chmod(name string, perm fs.FileMode) error
}

// reader opens a file of the other side.
type reader func(e entry) (io.ReadCloser, error)

// carryOut copies the entries of a plan. Directories get their modes at the end: one may not be
// writable.
func (p *plan) carryOut(ctx context.Context, c *Card, open reader, to target) (err error) {
	stage := p.o.Progress.Bytes(fmt.Sprintf("copying %s", count(len(p.entries))), p.bytes)
	defer func() {
		if err != nil {
			stage.Fail(err)
			return
		}
		stage.Done("")
	}()
	var made []entry
	missing := "" // the directory that could not be made, and a slash
	defer func() {
		for _, e := range slices.Backward(made) {
			if cerr := to.chmod(e.to, e.perm); cerr != nil && err == nil {
				p.o.problem(p.res, e.from, cerr)
			}
		}
	}()
	for _, e := range p.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if missing != "" && strings.HasPrefix(e.to, missing) {
			p.res.Failed++
			continue
		}
		isNew, err := p.one(ctx, c, e, open, to, stage)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && fatal(c, err):
			return fmt.Errorf("%s: %w", e.from, c.cause(err))
		case err != nil:
			p.o.problem(p.res, e.from, err)
			if e.kind == fs.ModeDir {
				missing = e.to + "/"
			}
		case isNew:
			made = append(made, e)
		}
	}
	return nil
}

func count(n int) string {
	if n == 1 {
		return "1 file"
	}
	return fmt.Sprintf("%d files", n)
}

// errBound is a bound of the whole copy that is reached.
type errBound struct{ error }

func (e errBound) Unwrap() error { return e.error }

func fatal(c *Card, err error) bool {
	var bound errBound
	return c.broken(err) || errors.As(err, &bound) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (p *plan) one(ctx context.Context, c *Card, e entry, open reader, to target, stage *progress.Stage) (bool, error) {
	switch e.kind {
	case fs.ModeDir:
		return to.mkdir(e.to)
	case fs.ModeSymlink:
		return false, to.symlink(e.to, e.link)
	}
	in, err := open(e)
	if err != nil {
		return false, err
	}
	defer in.Close()
	err = to.write(e.to, e, func(w io.Writer) error {
		_, err := io.Copy(&passage{ctx: ctx, w: w, p: p, left: e.size + slack, stage: stage}, in)
		return err
	})
	if err == nil {
		p.res.Files++
	}
	return false, err
}

// passage is what each byte goes through on its way: it ends with ctx, and at the bounds.
type passage struct {
	ctx   context.Context
	w     io.Writer
	p     *plan
	left  int64 // of this file
	stage *progress.Stage
}

func (g *passage) Write(b []byte) (int, error) {
	if err := g.ctx.Err(); err != nil {
		return 0, err
	}
	if g.left -= int64(len(b)); g.left < 0 {
		return 0, errors.New("is larger than it was said to be")
	}
	if most := g.p.o.MaxBytes; most > 0 && g.p.res.Bytes+int64(len(b)) > most {
		return 0, errBound{tooMuch(most)}
	}
	n, err := g.w.Write(b)
	g.p.res.Bytes += int64(n)
	g.stage.Add(int64(n))
	return n, err
}

// temporary is a new name beside name.
func temporary(name string) string {
	return path.Join(path.Dir(name), ".toe-"+rand.Text()[:12])
}
