// Package tail keeps the last words of a process.
package tail

import (
	"strings"
	"sync"
	"unicode"
)

// Size is how much a Buffer keeps, in bytes.
const Size = 4096

// Buffer is an io.Writer that keeps the last Size bytes written to it. The
// zero value is ready; all methods may be called from any goroutine.
type Buffer struct {
	mu   sync.Mutex
	data []byte // guarded by mu; at most Size bytes
}

// Write never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, p...)
	if over := len(b.data) - Size; over > 0 {
		b.data = append(b.data[:0], b.data[over:]...)
	}
	return len(p), nil
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.data)
}

// LastLine is the last line that is not blank, with what a terminal would
// take for control characters made visible, cut to 200 bytes.
func (b *Buffer) LastLine() string {
	lines := strings.Split(b.String(), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if line := strings.TrimSpace(lines[i]); line != "" {
			return clean(line)
		}
	}
	return ""
}

// clean is for text from a card, which must not reach a terminal as it is.
func clean(s string) string {
	s = Visible(s, "")
	return strings.ToValidUTF8(s[:min(len(s), 200)], "?")
}

// Visible is s with a question mark for each character that is not in keep and
// does not print: control characters, those that turn the direction of the
// text, bytes that are no UTF-8. It is for text that a card had a hand in.
func Visible(s, keep string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) && !strings.ContainsRune(keep, r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
