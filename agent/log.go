package agent

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

const (
	logBytes = 1 << 20 // size of the remembered log, text and overhead
	lineMax  = 4 << 10 // longer lines are cut, so that one cannot push out all others
	lineCost = 64      // approximate overhead of one line
)

// Sources of log lines.
const (
	fromAgent  = "agent"
	fromKernel = "kernel"
)

// Line is one line of the card's log.
type Line struct {
	Time         time.Time
	Source, Text string
}

// Log is the card's log, bounded and in memory. Important lines go to the console,
// too.
type Log struct {
	console io.Writer

	mu    sync.Mutex // guards what follows
	lines []Line
	first uint64 // number of lines[0]; lines are counted from 0 and never renumbered
	bytes int
	wake  chan struct{} // closed and replaced at every new line
}

// NewLog returns an empty log. The console may be io.Discard.
func NewLog(console io.Writer) *Log {
	return &Log{console: console, wake: make(chan struct{})}
}

// Printf remembers a line of the agent.
func (l *Log) Printf(format string, args ...any) {
	l.add(fromAgent, fmt.Sprintf(format, args...))
}

// Sayf remembers a line and shows it on the console.
func (l *Log) Sayf(format string, args ...any) {
	text := clean(fmt.Sprintf(format, args...))
	l.add(fromAgent, text)
	_, _ = fmt.Fprintf(l.console, "toe-agent: %s\n", text)
}

// Write lets the log serve as the output of a log.Logger.
func (l *Log) Write(p []byte) (int, error) {
	l.add(fromAgent, strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

func (l *Log) add(source, text string) {
	line := Line{time.Now(), source, clean(text)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	l.bytes += len(line.Text) + lineCost
	for l.bytes > logBytes {
		l.bytes -= len(l.lines[0].Text) + lineCost
		l.lines[0] = Line{}
		l.lines = l.lines[1:]
		l.first++
	}
	close(l.wake)
	l.wake = make(chan struct{})
}

// clean makes text fit for a terminal: a peer or the kernel may have written it.
func clean(s string) string {
	if len(s) > lineMax {
		s = s[:lineMax] + "…"
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	return strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' {
			return ' '
		}
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

// tail is the number of the first of the newest n lines, or of all for 0.
func (l *Log) tail(n uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if have := uint64(len(l.lines)); n > 0 && n < have {
		return l.first + have - n
	}
	return l.first
}

// read returns up to n lines from number next on, the number to go on with, how
// many lines before them were dropped, and a channel that closes when there is a
// new line.
func (l *Log) read(next uint64, n int) (lines []Line, then, missed uint64, wake <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if next < l.first {
		missed = l.first - next
		next = l.first
	}
	rest := l.lines[min(next-l.first, uint64(len(l.lines))):]
	if len(rest) > n {
		rest = rest[:n]
	}
	lines = append(lines, rest...)
	return lines, next + uint64(len(lines)), missed, l.wake
}
