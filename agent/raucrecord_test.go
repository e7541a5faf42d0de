package agent

import (
	"testing"

	"github.com/toe-project/toe/flash"
)

// RAUC must not take an upgraded slot for the bundle that was in it before.
func TestCopyRecord(t *testing.T) {
	const record = "[slot.rootfs.0]\nbundle.version=2\nsha256=aa\nstatus=ok\n\n[slot.boot.0]\nbundle.version=2\n" +
		"[slot.rootfs.1]\nbundle.version=1\nsha256=bb\n[slot.boot.1]\nbundle.version=1\n[other]\nx=y\n"
	const a = "[slot.rootfs.0]\nbundle.version=2\nsha256=aa\nstatus=ok\n\n[slot.boot.0]\nbundle.version=2\n[other]\nx=y\n"
	if got := copyRecord(record, "", flash.B); got != a {
		t.Errorf("without B: %q", got)
	}
	want := a + "[slot.rootfs.1]\nbundle.version=2\nstatus=ok\n[slot.boot.1]\nbundle.version=2\n"
	if got := copyRecord(record, flash.A, flash.B); got != want {
		t.Errorf("B as A: %q, want %q", got, want)
	}
	if got := copyRecord("", flash.A, flash.B); got != "" {
		t.Errorf("of nothing: %q", got)
	}
}
