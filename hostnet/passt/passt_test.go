package passt

import (
	"fmt"
	"strings"
	"testing"
)

// A line of any length does not end the reading: passt would stop at a full pipe.
func TestPasstSaysALot(t *testing.T) {
	var said []string
	r := &Passt{Options: Options{Name: "wan", Logf: func(f string, a ...any) { said = append(said, fmt.Sprintf(f, a...)) }}}
	last := r.listen(strings.NewReader("first\n" + strings.Repeat("x", 200<<10) + "\n\nFailed to send 3 bytes\nthe end\n"))
	if last != "the end" || len(said) != 3 || len(said[1]) > 2*maxWord {
		t.Errorf("%d lines, the last %q, want 3 and %q", len(said), last, "the end")
	}
}
