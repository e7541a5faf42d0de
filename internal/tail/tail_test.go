package tail

import (
	"strings"
	"testing"
)

func TestBuffer(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"empty", "", ""},
		{"one line", "hello\n", "hello"},
		{"blank lines after", "first\nlast\r\n \n\n", "last"},
		{"escape sequences", "a\x1b[2Jb\n", "a?[2Jb"},
		{"long", strings.Repeat("x", 5*Size), strings.Repeat("x", 200)},
	} {
		var b Buffer
		if n, err := b.Write([]byte(c.in)); n != len(c.in) || err != nil {
			t.Errorf("%s: Write = %d, %v", c.name, n, err)
		}
		if got := b.LastLine(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if len(b.String()) > Size {
			t.Errorf("%s: keeps %d bytes, more than %d", c.name, len(b.String()), Size)
		}
	}
}

func TestBufferKeepsTheEnd(t *testing.T) {
	var b Buffer
	for range 1000 {
		_, _ = b.Write([]byte("0123456789"))
	}
	_, _ = b.Write([]byte("end"))
	if !strings.HasSuffix(b.String(), "789end") {
		t.Errorf("the end was lost: %q", b.String()[Size-20:])
	}
}
