package suggest

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	for _, c := range []struct{ got, want string }{
		{"stauts", "status"}, {"memoyr", "memory"}, {"pu", "up"}, {"dwon", "down"},
		{"xyzzy", ""}, {"", ""}, {strings.Repeat("up", 100), ""},
	} {
		if got := Nearest(c.got, "status", "memory", "up", "down"); got != c.want {
			t.Errorf("%q: %q, want %q", c.got, got, c.want)
		}
	}
}

func TestDidYouMean(t *testing.T) {
	if got := DidYouMean("stauts", "status", "up"); got != `; did you mean "status"?` {
		t.Errorf("near: %q", got)
	}
	if got := DidYouMean("xyzzy", "status", "up"); got != "" {
		t.Errorf("far: %q", got)
	}
}
