package agent

import (
	"testing"

	"github.com/toe-project/toe/flash"
)

func TestIsLater(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"2026.1128.915", "2026.1128.914", true}, {"2026.1128.915", "2026.1128.915", false}, {"2.10", "2.9", true},
		{"1", "", true}, {"2026.1", "2026.1.0", false}, {"1.0", "1", false}, {"1.x", "1.0", false}, {"9", "10", false},
	} {
		if got := isLater(c.a, c.b); got != c.want {
			t.Errorf("isLater(%q, %q) = %v", c.a, c.b, got)
		}
	}
}

func TestRecordedVersion(t *testing.T) {
	const record = "[slot.boot.1]\nbundle.version=1\n[slot.rootfs.1]\nsha256=a\nbundle.version=2026.1128.1\n[slot.rootfs.0]\nstatus=ok\n"
	if got := recordedVersion(record, flash.B); got != "2026.1128.1" {
		t.Errorf("slot B: %q", got)
	}
	if got := recordedVersion(record, flash.A); got != "" {
		t.Errorf("slot A: %q", got)
	}
}

func TestBundleVersion(t *testing.T) {
	if v, err := bundleVersion([]byte("note\n{\"compatible\":\"x\",\"version\":\"3.1\"}\n")); v != "3.1" || err != nil {
		t.Errorf("%q, %v", v, err)
	}
	for _, bad := range []string{"", "{}", "no json"} {
		if _, err := bundleVersion([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
