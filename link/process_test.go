package link

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The pump does not inherit a descriptor that this process got without
// close-on-exec.
func TestPumpInheritsNothing(t *testing.T) {
	leak, err := os.CreateTemp(t.TempDir(), "leak")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	fd, err := unix.Dup(int(leak.Fd())) // without close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	w := newWorld(t, worldOptions{process: true})
	w.passes(t)
	dir := fmt.Sprintf("/proc/%d/fd", w.k.PumpPID())
	all, err := os.ReadDir(dir)
	if err != nil || len(all) == 0 {
		t.Fatalf("%d descriptors of the pump: %v", len(all), err)
	}
	for _, e := range all {
		if name, err := os.Readlink(dir + "/" + e.Name()); err == nil && strings.Contains(name, "leak") {
			t.Errorf("the pump has descriptor %s of %s", e.Name(), name)
		}
	}
}
