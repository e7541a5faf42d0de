package card

import (
	"io"
	"os"
	"strings"

	"github.com/toe-project/toe/internal/tail"
)

// consoleTail is how much of it is shown with a failed start, in bytes.
const consoleTail = 2000

// ConsoleTail is the end of what the card printed in its last start, for people.
func (p Paths) ConsoleTail() string {
	f, err := os.Open(p.ConsoleLog())
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil {
		_, _ = f.Seek(max(fi.Size()-2*consoleTail, 0), io.SeekStart)
	}
	data, _ := io.ReadAll(f)
	return lastLines(data, consoleTail)
}

// lastLines is fit for a terminal: a card may print what it likes.
func lastLines(data []byte, n int) string {
	text := tail.Visible(strings.ReplaceAll(string(data), "\r", ""), "\n\t")
	if len(text) > n {
		text = text[len(text)-n:]
		if i := strings.IndexByte(text, '\n'); i >= 0 {
			text = text[i+1:]
		}
	}
	return strings.TrimRight(strings.ToValidUTF8(text, "?"), "\n")
}
