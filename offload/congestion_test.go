package offload

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/feature"
	"github.com/toe-project/toe/offload/loop"
)

func controlOf(t *testing.T, fd int) string {
	t.Helper()
	s, err := unix.GetsockoptString(fd, unix.SOL_TCP, unix.TCP_CONGESTION)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestCongestion: listeners of published services follow the configuration. Connections of the card
// set the congestion control only where it differs from the kernel's default. A name unknown to the
// kernel is refused.
func TestCongestion(t *testing.T) {
	l, err := loop.New()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Discard()
	own, told, err := congestion("")
	if err != nil || told != "" {
		t.Fatalf("the kernel's own: %q, told %q, %v", own, told, err)
	}
	other := "reno" // every kernel has it, and unprivileged processes may set it
	if own == other {
		t.Skip("this kernel's own is reno, and no other may be there")
	}
	tt := &tcp{loop: l, published: map[Publish][]int{}, count: TCPStats{Drops: map[string]uint64{}}}
	defer tt.close()
	services := []Publish{{Protocol: "tcp"}} // at a port of the kernel's choice
	for _, c := range []struct{ name, told, is string }{{other, other, other}, {own, "", own}, {other, other, other}, {"", "", own}} {
		if err := tt.configure(Config{Publish: services, Offload: feature.Offload{Congestion: c.name}}); err != nil {
			t.Fatal(err)
		}
		if tt.congestion != c.told {
			t.Errorf("%q: a new socket is told %q, want %q", c.name, tt.congestion, c.told)
		}
		if len(tt.published[services[0]]) == 0 {
			t.Fatal("nothing listens")
		}
		for _, fd := range tt.published[services[0]] {
			if is := controlOf(t, fd); is != c.is {
				t.Errorf("%q: a listener has %q, want %q", c.name, is, c.is)
			}
		}
	}
	err = tt.configure(Config{Publish: services, Offload: feature.Offload{Congestion: "none-such"}})
	if err == nil || !strings.Contains(err.Error(), `"none-such"`) || !strings.Contains(err.Error(), own) {
		t.Errorf("said %v, want it to name what is asked and what there is", err)
	}
}
