package store

import (
	"io"
	"os"
	"strings"

	"github.com/toe-project/toe/internal/tail"
)

// TailBytes is how much of the console is shown with a failed start, in bytes.
const TailBytes = 2000

// ConsoleTail is the end of what the card printed in its last start, for people.
func (p Paths) ConsoleTail() string {
	f, err := os.Open(p.ConsoleLog())
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil {
		_, _ = f.Seek(max(fi.Size()-2*TailBytes, 0), io.SeekStart)
	}
	data, _ := io.ReadAll(f)
	return LastLines(data, TailBytes)
}

// LastLines returns the last n bytes of data at most, from the beginning of a
// line. It is safe to print: a card writes what it likes to its console.
func LastLines(data []byte, n int) string {
	text := tail.Visible(strings.ReplaceAll(string(data), "\r", ""), "\n\t")
	if len(text) > n {
		text = text[len(text)-n:]
		if i := strings.IndexByte(text, '\n'); i >= 0 {
			text = text[i+1:]
		}
	}
	return strings.TrimRight(strings.ToValidUTF8(text, "?"), "\n")
}
