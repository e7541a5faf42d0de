package progress

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// Stage is one step of a command. Its methods do nothing after Done or Fail.
type Stage struct {
	p     *Progress
	name  string
	bytes bool
	began time.Time

	// Guarded by p.mu.
	total, done int64
	note        string
	ended       bool

	stop    chan struct{}
	ticking sync.WaitGroup
}

// Add counts n more steps or bytes.
func (s *Stage) Add(n int64) { s.change(func() { s.done += n }) }

// Set sets the count of steps or bytes done.
func (s *Stage) Set(n int64) { s.change(func() { s.done = n }) }

// Total sets how many steps or bytes there are, once it is known.
func (s *Stage) Total(n int64) { s.change(func() { s.total = n }) }

// Note says in a few words what is being done or waited for.
func (s *Stage) Note(text string) { s.change(func() { s.note = text }) }

// Done ends the stage successfully; detail, if not empty, is printed after its name.
func (s *Stage) Done(detail string) { s.end("", detail) }

// Fail ends the stage with the reason. A nil err means that it is done, context.Canceled that the
// user interrupted it.
func (s *Stage) Fail(err error) {
	switch {
	case err == nil:
		s.end("", "")
		return
	case errors.Is(err, context.Canceled):
		s.end("", "interrupted")
		return
	}
	reason, _, _ := strings.Cut(err.Error(), "\n") // the caller shows all of it
	s.end("failed: ", reason)
}

// Write counts the bytes written, so that a Stage can stand in an
// io.MultiWriter or behind an io.TeeReader.
func (s *Stage) Write(b []byte) (int, error) {
	s.Add(int64(len(b)))
	return len(b), nil
}

func (s *Stage) change(f func()) {
	if s == nil {
		return
	}
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if !s.ended {
		f()
	}
}

func (s *Stage) end(verdict, detail string) {
	if s == nil {
		return
	}
	s.p.mu.Lock()
	if s.ended {
		s.p.mu.Unlock()
		return
	}
	s.ended = true
	if s.p.current == s {
		s.p.current = nil
	}
	text := s.name
	if verdict+detail != "" {
		text += ": " + verdict + detail
	}
	s.p.line(fmt.Sprintf("%s (%s)", text, elapsed(time.Since(s.began))))
	s.p.mu.Unlock()
	close(s.stop)
	s.ticking.Wait()
}

// tick keeps a stage alive on the screen while nothing is counted.
func (s *Stage) tick() {
	defer s.ticking.Done()
	every := redraw
	if s.p.width == nil {
		every = firstLine
	}
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-t.C:
		}
		s.p.mu.Lock()
		if !s.ended && s.p.width != nil {
			s.p.draw()
		} else if !s.ended {
			s.p.line(s.plain(time.Now()))
			t.Reset(laterLines)
		}
		s.p.mu.Unlock()
	}
}

func (s *Stage) bar(now time.Time) string {
	parts := []string{s.name}
	if s.total > 0 {
		parts = append(parts, drawBar(s.done, s.total))
	}
	return strings.Join(append(parts, s.counts(now)...), " ")
}

func (s *Stage) plain(now time.Time) string {
	return strings.Join(append([]string{s.name + " …"}, s.counts(now)...), " ")
}

func (s *Stage) counts(now time.Time) []string {
	var parts []string
	switch {
	case s.total > 0:
		percent := min(s.done*100/s.total, 100)
		parts = append(parts, fmt.Sprintf("%d%%", percent))
		if s.bytes {
			parts = append(parts, fmt.Sprintf("%s of %s", Size(s.done), Size(s.total)))
		}
	case s.bytes && s.done > 0:
		parts = append(parts, Size(s.done))
	}
	parts = append(parts, elapsed(now.Sub(s.began)))
	if s.note != "" {
		parts = append(parts, s.note)
	}
	return parts
}

func elapsed(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	if d < time.Minute {
		return fmt.Sprintf("%.0f s", d.Seconds())
	}
	return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
}

// Size writes a count of bytes for a person, in powers of 1024.
func Size(n int64) string {
	const units = "KMGT"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}
