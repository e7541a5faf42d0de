// Package support collects what somebody needs who is to find a fault: one archive of statuses,
// checks, logs and versions. Secrets are left out. No key is read into it, and every text goes
// through a Redactor.
package support

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxItem bounds one item, in bytes. Of a longer file the end is kept.
const maxItem = 2 << 20

// Item is one file of the archive.
type Item struct {
	Name  string        `json:"name"`
	Bytes int           `json:"bytes"`
	Cut   int64         `json:"cut,omitempty"`   // bytes left out at its beginning
	Error string        `json:"error,omitempty"` // why it is missing or incomplete
	Took  time.Duration `json:"took_ns"`
}

// Archive is a tar.gz that is being written. Items that cannot be had are named in
// its report, and are no error.
type Archive struct {
	Redactor
	Items []Item

	top  string
	now  time.Time
	gzip *gzip.Writer
	tar  *tar.Writer
	err  error // of writing
}

// NewArchive begins an archive whose files are below top.
func NewArchive(w io.Writer, top string, now time.Time) *Archive {
	z := gzip.NewWriter(w)
	return &Archive{top: top, now: now, gzip: z, tar: tar.NewWriter(z)}
}

// form is how a Redactor reads a document.
type form func(*Redactor, []byte) []byte

// The forms of a document.
var (
	Text  form = (*Redactor).Text
	JSON  form = (*Redactor).JSON
	Lines form = (*Redactor).Lines
)

// Add adds what get returns, within limit. get must end with its context, or some time later:
// it is not waited for.
func (a *Archive) Add(ctx context.Context, name string, f form, limit time.Duration, get func(context.Context) ([]byte, error)) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type answer struct {
		data []byte
		err  error
	}
	answers, began := make(chan answer, 1), time.Now()
	go func() {
		data, err := get(ctx)
		answers <- answer{data, err}
	}()
	var got answer
	select {
	case got = <-answers:
	case <-ctx.Done():
		got.err = fmt.Errorf("not there within %s: %w", limit, ctx.Err())
	}
	item := Item{Name: name, Took: time.Since(began)}
	if over := len(got.data) - maxItem; over > 0 {
		got.data, item.Cut = got.data[over:], int64(over)
	}
	a.put(item, f(&a.Redactor, got.data), got.err)
}

// AddJSON adds a value.
func (a *Archive) AddJSON(ctx context.Context, name string, limit time.Duration, get func(context.Context) (any, error)) {
	a.Add(ctx, name, JSON, limit, func(ctx context.Context) ([]byte, error) {
		v, err := get(ctx)
		if err != nil {
			return nil, err
		}
		return json.Marshal(v)
	})
}

// AddFile adds the end of a file. One that does not exist is left out.
func (a *Archive) AddFile(name string, f form, path string) {
	data, cut, err := readEnd(path)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	a.put(Item{Name: name, Cut: cut}, f(&a.Redactor, data), err)
}

func readEnd(path string) (data []byte, cut int64, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: want a regular file", path)
	}
	if cut = max(info.Size()-maxItem, 0); cut > 0 {
		if _, err := file.Seek(cut, io.SeekStart); err != nil {
			return nil, 0, err
		}
	}
	data, err = io.ReadAll(io.LimitReader(file, maxItem))
	return data, cut, err
}

func (a *Archive) put(item Item, data []byte, err error) {
	if err != nil {
		item.Error = string(a.Text([]byte(err.Error())))
	}
	item.Bytes = len(data)
	a.Items = append(a.Items, item)
	if len(data) > 0 {
		a.write(item.Name, data)
	}
}

func (a *Archive) write(name string, data []byte) {
	if a.err != nil {
		return
	}
	h := &tar.Header{Name: a.top + "/" + name, Mode: 0o600, Size: int64(len(data)), ModTime: a.now, Format: tar.FormatPAX}
	if a.err = a.tar.WriteHeader(h); a.err == nil {
		_, a.err = a.tar.Write(data)
	}
}

// Close writes the report of what is there and what is missing, and ends the archive.
func (a *Archive) Close() error {
	data, err := json.MarshalIndent(map[string]any{"time": a.now, "items": a.Items}, "", "  ")
	if err == nil {
		a.write("report.json", append(data, '\n'))
	}
	return errors.Join(err, a.err, a.tar.Close(), a.gzip.Close())
}
