package progress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// safeBuffer is a bytes.Buffer that the ticking goroutine may share.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestPlainWritesOneLinePerShortStage(t *testing.T) {
	var out safeBuffer
	p := New(&out)
	s := p.Bytes("fetching kernel", 2048)
	for range 100 {
		s.Add(20)
	}
	s.Done("6.12.1")
	s.Add(1)
	s.Fail(errors.New("too late"))
	p.Stage("booting", 0).Fail(errors.New("no console\nsecond line"))
	p.Log("try %s", "toe ssh")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	want := []string{"fetching kernel: 6.12.1 (0.0 s)", "booting: failed: no console (0.0 s)", "try toe ssh"}
	if strings.Join(lines, "|") != strings.Join(want, "|") {
		t.Errorf("lines %q, want %q", lines, want)
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("escape sequences without a terminal")
	}
}

func TestNextStageEndsTheOneBefore(t *testing.T) {
	var out safeBuffer
	p := New(&out)
	p.Stage("one", 3)
	p.Stage("two", 0).Done("")
	if got := out.String(); !strings.HasPrefix(got, "one (") || !strings.Contains(got, "two (") {
		t.Errorf("wrote %q", got)
	}
}

func TestNilReportsNothing(t *testing.T) {
	p := New(nil)
	s := p.Stage("nothing", 1)
	s.Add(1)
	s.Set(1)
	s.Total(2)
	s.Note("x")
	s.Done("x")
	s.Fail(nil)
	p.Log("x")
}

func TestTerminalGetsABar(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Skip("no pseudo-terminal here:", err)
	}
	defer master.Close()
	t.Setenv("TERM", "xterm")
	if err := pty.Setsize(master, &pty.Winsize{Rows: 24, Cols: 60}); err != nil {
		t.Fatal(err)
	}
	s := New(tty).Stage("building", 4)
	s.Set(2)
	time.Sleep(3 * redraw)
	s.Done("done")
	tty.Close()
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := master.Read(buf)
		all = append(all, buf[:n]...)
		if err != nil || n == 0 {
			break
		}
	}
	if !bytes.Contains(all, []byte("############------------] 50%")) {
		t.Errorf("no half-filled bar in %q", all)
	}
}

func TestStageText(t *testing.T) {
	began := time.Now()
	tests := []struct {
		name  string
		stage *Stage
		after time.Duration
		want  string
	}{
		{"no total", &Stage{name: "waiting"}, 3 * time.Second, "waiting … 3.0 s"},
		{"note", &Stage{name: "waiting", note: "for the lock"}, 90 * time.Second, "waiting … 1 min 30 s for the lock"},
		{"steps", &Stage{name: "compiling", done: 250, total: 1000}, 20 * time.Second, "compiling … 25% 20 s"},
		{"more than all", &Stage{name: "compiling", done: 3, total: 2}, 0, "compiling … 100% 0.0 s"},
		{"bytes", &Stage{name: "fetching", bytes: true, done: 1 << 20, total: 2 << 20}, 0, "fetching … 50% 1.0 MiB of 2.0 MiB 0.0 s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.stage.began = began
			if got := tt.stage.plain(began.Add(tt.after)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestDumbTerminalIsPlain(t *testing.T) {
	t.Setenv("TERM", "dumb")
	if p := New(os.Stderr); p.width != nil {
		t.Error("bar on a dumb terminal")
	}
}

// What a card or a mirror says in an error does not act on the terminal, and
// an interrupt is not a failure.
func TestEndsThatArePrinted(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("no \x1b[2Jroom\nmore"), "x: failed: no ?[2Jroom ("},
		{fmt.Errorf("apt-get update: %w", context.Canceled), "x: interrupted ("},
		{nil, "x ("},
	} {
		var b bytes.Buffer
		New(&b).Stage("x", 0).Fail(c.err)
		if !strings.HasPrefix(b.String(), c.want) {
			t.Errorf("%v: %q, want %q", c.err, b.String(), c.want)
		}
	}
}
