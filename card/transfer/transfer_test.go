package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
)

// openOn begins a session with what serve makes of the other end.
func openOn(t *testing.T, ctx context.Context, serve func(net.Conn)) *Card {
	t.Helper()
	here, there := net.Pipe()
	go serve(there)
	c, err := open(ctx, here, here, func() { here.Close(); there.Close() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// realCard serves the files of this machine, as the agent does.
func realCard(t *testing.T, ctx context.Context) *Card {
	return openOn(t, ctx, func(conn net.Conn) {
		if s, err := sftp.NewServer(conn); err == nil {
			_ = s.Serve()
		}
	})
}

func write(t *testing.T, path, text string, perm fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, perm); err != nil {
		t.Fatal(err)
	}
}

// files lists what is below dir: mode, and content or target.
func files(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := ""
		switch {
		case d.Type() == fs.ModeSymlink:
			text, err = os.Readlink(path)
			out.WriteString(strings.TrimPrefix(path, dir) + " -> " + text + "\n")
			return err
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text = string(data)
		}
		out.WriteString(strings.TrimPrefix(path, dir) + " " + info.Mode().String() + " " + text + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

const treeText = `/d drwxr-xr-x 
/d/empty drwxr-xr-x 
/d/file -rwxr-x--x hello
/d/link -> sub/deep
/d/sub dr-xr-x--- 
/d/sub/deep -rw-r--r-- deep
/d/sub/up -> ../file
`

func makeTree(t *testing.T) string {
	dir := t.TempDir()
	write(t, dir+"/d/file", "hello", 0o751)
	write(t, dir+"/d/sub/deep", "deep", 0o644)
	err := errors.Join(os.Chmod(dir+"/d", 0o755), os.Mkdir(dir+"/d/empty", 0o755), os.Chmod(dir+"/d/empty", 0o755),
		os.Symlink("sub/deep", dir+"/d/link"), os.Symlink("../file", dir+"/d/sub/up"), os.Chmod(dir+"/d/sub", 0o550))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir+"/d/sub", 0o755) })
	return dir
}

func TestTreeBothWays(t *testing.T) {
	for name, do := range map[string]func(context.Context, *Card, []string, string, Options) (Result, error){
		"upload": Upload, "download": Download,
	} {
		t.Run(name, func(t *testing.T) {
			c, from, to := realCard(t, t.Context()), makeTree(t), t.TempDir()
			t.Cleanup(func() { _ = os.Chmod(to+"/d/sub", 0o755) })
			problem := func(path string, err error) { t.Errorf("%s: %v", path, err) }
			if _, err := do(t.Context(), c, []string{from + "/d"}, to, Options{}); !errors.Is(err, ErrDirectory) {
				t.Errorf("a directory without Recursive: %v", err)
			}
			res, err := do(t.Context(), c, []string{from + "/d"}, to, Options{Recursive: true, Problem: problem})
			if err != nil || res.Files != 2 || res.Bytes != 9 {
				t.Errorf("%+v, %v", res, err)
			}
			if got := files(t, to); got != treeText {
				t.Errorf("copied\n%swant\n%s", got, treeText)
			}
			_ = os.Chmod(to+"/d/sub", 0o755)
			_, err = do(t.Context(), c, []string{from + "/d/file", from + "/d/sub/deep"}, to+"/none", Options{})
			if err == nil || !strings.Contains(err.Error(), "want a directory that exists") {
				t.Errorf("two sources, no directory: %v", err)
			}
			write(t, to+"/other", "old", 0o600)
			if _, err = do(t.Context(), c, []string{from + "/d/file"}, to+"/other", Options{Problem: problem}); err != nil {
				t.Error(err)
			}
			if data, _ := os.ReadFile(to + "/other"); string(data) != "hello" {
				t.Errorf("a file that was there holds %q", data)
			}
			if _, err := do(t.Context(), c, []string{from + "/nothing"}, to, Options{}); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("no source: %v", err)
			}
		})
	}
}

func TestLargeFile(t *testing.T) {
	c, dir := realCard(t, t.Context()), t.TempDir()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	write(t, dir+"/a", string(want), 0o644)
	if _, err := Upload(t.Context(), c, []string{dir + "/a"}, dir+"/b", Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Download(t.Context(), c, []string{dir + "/b"}, dir+"/c", Options{}); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(dir + "/c"); !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back, want %d, the same", len(got), len(want))
	}
}

// An interruption leaves the file that was there, and no other.
func TestInterrupt(t *testing.T) {
	for _, way := range []string{"upload", "download"} {
		t.Run(way, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c, dir, to := realCard(t, ctx), t.TempDir(), t.TempDir()
			write(t, to+"/file", "old", 0o644)
			write(t, dir+"/file", strings.Repeat("x", 1<<20), 0o644)
			p := &plan{o: &Options{}, res: &Result{}, entries: []entry{{from: "file", to: "file", perm: 0o644, size: 1 << 30}}}
			var side target = cardTarget{c, to}
			if way == "download" {
				root, err := os.OpenRoot(to)
				if err != nil {
					t.Fatal(err)
				}
				defer root.Close()
				side = hostTarget{root}
			}
			endless := func(entry) (io.ReadCloser, error) { return io.NopCloser(&cancelAt{left: 300, cancel: cancel}), nil }
			if err := p.carryOut(ctx, c, endless, side); !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
			if got := files(t, to); got != "/file -rw-r--r-- old\n" {
				t.Errorf("left\n%s", got)
			}
		})
	}
}

// cancelAt is a file without an end that interrupts the copy.
type cancelAt struct {
	left   int
	cancel func()
}

func (r *cancelAt) Read(b []byte) (int, error) {
	if r.left--; r.left == 0 {
		r.cancel()
	}
	return len(b), nil
}

// hostile is a card that lies. Its root has the entries of infos.
type hostile struct {
	infos   []fs.FileInfo
	endless bool
	link    string
}

type liar struct {
	name string
	mode fs.FileMode
	size int64
}

func (l liar) Name() string       { return l.name }
func (l liar) Size() int64        { return l.size }
func (l liar) Mode() fs.FileMode  { return l.mode }
func (l liar) ModTime() time.Time { return time.Unix(0, 0) }
func (l liar) IsDir() bool        { return l.mode.IsDir() }
func (l liar) Sys() any           { return nil }

func (h *hostile) Fileread(*sftp.Request) (io.ReaderAt, error)  { return zeroes{}, nil }
func (h *hostile) Filewrite(*sftp.Request) (io.WriterAt, error) { return nil, os.ErrPermission }
func (h *hostile) Filecmd(*sftp.Request) error                  { return os.ErrPermission }

func (h *hostile) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	switch {
	case r.Method == "List" && h.endless:
		return endlessList{}, nil
	case r.Method == "List":
		return infoList(h.infos), nil
	case r.Method == "Readlink":
		return infoList{liar{name: h.link}}, nil
	}
	for _, i := range h.infos {
		if strings.HasSuffix(r.Filepath, "/"+i.Name()) {
			return infoList{i}, nil
		}
	}
	return infoList{liar{"top", fs.ModeDir | 0o755, 0}}, nil
}

type zeroes struct{}

func (zeroes) ReadAt(b []byte, _ int64) (int, error) { return len(b), nil }

type infoList []fs.FileInfo

func (l infoList) ListAt(out []fs.FileInfo, at int64) (int, error) {
	if at >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(out, l[at:])
	return n, nil
}

type endlessList struct{}

func (endlessList) ListAt(out []fs.FileInfo, _ int64) (int, error) {
	for i := range out {
		out[i] = liar{strings.Repeat("n", 250), 0o644, 0}
	}
	return len(out), nil
}

func hostileCard(t *testing.T, h *hostile) *Card {
	return openOn(t, t.Context(), func(conn net.Conn) {
		_ = sftp.NewRequestServer(conn, sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h}).Serve()
	})
}

// A card cannot make Download write outside its target, exceed a bound, or run without end.
func TestHostileCard(t *testing.T) {
	const file, dir, link = fs.FileMode(0o644), fs.ModeDir | 0o755, fs.ModeSymlink | 0o777
	for name, c := range map[string]struct {
		h    hostile
		most int64
		want string // an error, or a problem
		left string // what is copied
	}{
		"dot dot":       {h: hostile{infos: []fs.FileInfo{liar{"a/..", dir, 0}}}, want: `name ".."`, left: "/top drwxr-xr-x \n"},
		"slash":         {h: hostile{infos: []fs.FileInfo{liar{"/", dir, 0}}}, want: `name "/"`, left: "/top drwxr-xr-x \n"},
		"terminal":      {h: hostile{infos: []fs.FileInfo{liar{"\x1b[2J", file, 0}}}, want: "printable", left: "/top drwxr-xr-x \n"},
		"turned":        {h: hostile{infos: []fs.FileInfo{liar{"\u202egnp.exe", file, 0}}}, want: "printable", left: "/top drwxr-xr-x \n"},
		"newline":       {h: hostile{infos: []fs.FileInfo{liar{"a\nb", file, 0}}}, want: "printable", left: "/top drwxr-xr-x \n"},
		"twice":         {h: hostile{infos: []fs.FileInfo{liar{"x", link, 0}, liar{"x", dir, 0}}, link: "y"}, want: "twice", left: "/top drwxr-xr-x \n/top/x -> y\n"},
		"absolute link": {h: hostile{infos: []fs.FileInfo{liar{"x", link, 0}}, link: "/etc"}, want: "stays in", left: "/top drwxr-xr-x \n"},
		"link up":       {h: hostile{infos: []fs.FileInfo{liar{"x", link, 0}}, link: "../up"}, want: "stays in", left: "/top drwxr-xr-x \n"},
		"link by link":  {h: hostile{infos: []fs.FileInfo{liar{"x", link, 0}}, link: "y/../.."}, want: "stays in", left: "/top drwxr-xr-x \n"},
		"device":        {h: hostile{infos: []fs.FileInfo{liar{"x", fs.ModeDevice | 0o600, 0}}}, want: "neither a file", left: "/top drwxr-xr-x \n"},
		"setuid":        {h: hostile{infos: []fs.FileInfo{liar{"x", fs.ModeSetuid | fs.ModeDevice, 0}}}, want: "neither", left: "/top drwxr-xr-x \n"},
		"longer":        {h: hostile{infos: []fs.FileInfo{liar{"x", file, 10}}}, want: "larger than it was said", left: "/top drwxr-xr-x \n"},
		"long in all":   {h: hostile{infos: []fs.FileInfo{liar{"x", file, 10}}}, most: 1000, want: "more than 1000 bytes", left: "/top drwxr-xr-x \n"},
		"large":         {h: hostile{infos: []fs.FileInfo{liar{"x", file, 1 << 62}}}, most: 1 << 30, want: "more than 1073741824 bytes"},
		"sum":           {h: hostile{infos: []fs.FileInfo{liar{"x", file, 1 << 62}, liar{"y", file, 1 << 62}, liar{"z", file, 1 << 62}}}, most: 1<<62 + 5, want: "more than"},
		"negative":      {h: hostile{infos: []fs.FileInfo{liar{"x", file, -5}}}, want: "size -5", left: "/top drwxr-xr-x \n"},
		"bottomless":    {h: hostile{infos: []fs.FileInfo{liar{"x", dir, 0}}}, want: "more than 64 directories"},
		"endless":       {h: hostile{endless: true}, want: "larger than any directory's list"},
	} {
		t.Run(name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "in")
			if err := os.Mkdir(to, 0o755); err != nil {
				t.Fatal(err)
			}
			var said []string
			o := Options{Recursive: true, MaxBytes: c.most, Problem: func(path string, err error) { said = append(said, err.Error()) }}
			card := hostileCard(t, &c.h)
			card.list = 1 << 20
			res, err := Download(t.Context(), card, []string{"/top"}, to, o)
			if err != nil {
				said = append(said, err.Error())
			}
			if text := strings.Join(said, "\n"); !strings.Contains(text, c.want) || err == nil && res.Failed != len(said) {
				t.Errorf("said %q, failed %d; want %q", text, res.Failed, c.want)
			}
			if got := files(t, to); got != c.left {
				t.Errorf("left\n%swant\n%s", got, c.left)
			}
			if above := files(t, filepath.Dir(to)); strings.Count(above, "\n") != strings.Count(c.left, "\n")+1 {
				t.Errorf("outside of the target\n%s", above)
			}
		})
	}
}

// A symbolic link of the user's own in the target leads nowhere else.
func TestLinkInTheTarget(t *testing.T) {
	c, from, to, outside := realCard(t, t.Context()), makeTree(t), t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, to+"/d"); err != nil {
		t.Fatal(err)
	}
	res, err := Download(t.Context(), c, []string{from + "/d"}, to, Options{Recursive: true})
	if err != nil || res.Files != 0 || files(t, outside) != "" {
		t.Errorf("%+v, %v; outside of the target: %s", res, err, files(t, outside))
	}
}

// A card that stops in the middle ends the copy with the reason.
func TestLostConnection(t *testing.T) {
	c, dir := realCard(t, t.Context()), t.TempDir()
	write(t, dir+"/a", "text", 0o644)
	c.abandon(errors.New("the card has not answered"))
	_, err := Download(t.Context(), c, []string{dir + "/a"}, dir+"/b", Options{})
	if err == nil || !strings.Contains(err.Error(), "has not answered") {
		t.Errorf("%v", err)
	}
}

func TestCheckLink(t *testing.T) {
	for _, c := range []struct {
		link  string
		depth int
		ok    bool
	}{
		{"a", 0, true}, {"a/b", 0, true}, {"../a", 1, true}, {"../../a", 1, false}, {".././../a", 2, true}, {"./../a", 0, false},
		{"a/../b", 3, false}, {"..", 1, true}, {"..", 0, false}, {"", 0, false}, {"/", 9, false}, {"a\x00", 0, false}, {"a//b", 0, true},
	} {
		if err := checkLink(c.link, c.depth); (err == nil) != c.ok {
			t.Errorf("%q in depth %d: %v", c.link, c.depth, err)
		}
	}
}

func FuzzCheckLink(f *testing.F) {
	for _, s := range []string{"a", "../a", "a/..", "/", "", "././..", "..//..", "a/./b"} {
		f.Add(s, 2)
	}
	f.Fuzz(func(t *testing.T, link string, depth int) {
		if depth < 0 || depth > maxDepth || checkLink(link, depth) != nil {
			return
		}
		at := filepath.Join("/t"+strings.Repeat("/d", depth), link)
		if at != "/t" && !strings.HasPrefix(at, "/t/") {
			t.Errorf("%q in depth %d leads to %s", link, depth, at)
		}
	})
}
