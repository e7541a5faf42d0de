// Package progress tells a person what a long command is doing: a bar on a
// terminal, a plain line now and then otherwise.
//
// One stage is shown at a time. A stage with a known total draws a bar, one
// without draws the time it has taken. All methods are safe to call on nil,
// which reports nothing, and from several goroutines.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/toe-project/toe/internal/tail"
)

const (
	redraw     = 100 * time.Millisecond // on a terminal
	firstLine  = 2 * time.Second        // quiet time before the first plain line of a stage
	laterLines = 10 * time.Second       // and between the following ones
	barWidth   = 24                     // columns
)

// Progress writes the progress of one command to one writer.
type Progress struct {
	mu      sync.Mutex
	w       io.Writer
	width   func() int // columns of the terminal; nil when w is none
	current *Stage
}

// New reports to w. A bar is drawn when w is a terminal that can move its
// cursor; a nil w reports nothing.
func New(w io.Writer) *Progress {
	if w == nil {
		return nil
	}
	p := &Progress{w: w}
	f, ok := w.(*os.File)
	if ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		p.width = func() int { return columns(int(f.Fd())) }
	}
	return p
}

func columns(fd int) int {
	cols, _, err := term.GetSize(fd)
	if err != nil || cols < 20 {
		return 80
	}
	return cols
}

// Stage begins the next stage, of total steps; 0 if the number is unknown.
// A stage still open is taken as done.
func (p *Progress) Stage(name string, total int64) *Stage {
	return p.begin(&Stage{name: name, total: total})
}

// Bytes begins a stage that is counted in bytes.
func (p *Progress) Bytes(name string, total int64) *Stage {
	return p.begin(&Stage{name: name, total: total, bytes: true})
}

// Log writes one line, above the bar when there is one.
func (p *Progress) Log(format string, args ...any) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(fmt.Sprintf(format, args...))
	p.draw()
}

func (p *Progress) begin(s *Stage) *Stage {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	before := p.current
	p.mu.Unlock()
	before.Done("")

	s.p, s.began, s.stop = p, time.Now(), make(chan struct{})
	p.mu.Lock()
	p.current = s
	p.draw()
	p.mu.Unlock()
	s.ticking.Add(1)
	go s.tick()
	return s
}

// line writes text on a line of its own; a card or a file may have had a hand
// in it. Called with mu held.
func (p *Progress) line(text string) {
	text = tail.Visible(text, "\n\t")
	if p.width != nil {
		text = "\r\x1b[K" + text
	}
	fmt.Fprintln(p.w, text)
}

// draw shows the current stage again on a terminal. Called with mu held.
func (p *Progress) draw() {
	if p.width == nil || p.current == nil {
		return
	}
	text := []rune(tail.Visible(p.current.bar(time.Now()), ""))
	if most := p.width() - 1; len(text) > most {
		text = text[:most]
	}
	fmt.Fprintf(p.w, "\r\x1b[K%s", string(text))
}

func drawBar(done, total int64) string {
	filled := barWidth
	if total > 0 && done < total {
		filled = int(float64(barWidth) * float64(done) / float64(total))
	}
	return "[" + strings.Repeat("#", filled) + strings.Repeat("-", barWidth-filled) + "]"
}
