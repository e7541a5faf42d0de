//go:build amd64 || arm64 || arm || riscv64 || ppc64le || s390x

package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const inheritedEnv = "TOE_SANDBOX_TEST_INHERITED"

// TestInheritor is not a test: it is the process that TestCloseInherited starts with descriptors 3
// to 5.
func TestInheritor(t *testing.T) {
	if os.Getenv(inheritedEnv) == "" {
		t.Skip("only as a child of TestCloseInherited")
	}
	own, err := os.Open("/dev/null") // of Go's, so it stays
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if err := CloseInherited(4); err != nil {
		t.Fatal(err)
	}
	for fd := 3; fd <= 5; fd++ {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		fmt.Printf("descriptor %d: %v %d\n", fd, err, flags)
	}
	if _, err := own.Stat(); err != nil {
		t.Errorf("a descriptor of this process's own: %v", err)
	}
	if left, err := inherited(); err != nil || len(left) > 0 {
		t.Errorf("would be passed on: %v, %v", left, err)
	}
}

func TestCloseInherited(t *testing.T) {
	leaked, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer leaked.Close()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestInheritor$", "-test.v")
	cmd.Env = append(os.Environ(), inheritedEnv+"=1")
	cmd.ExtraFiles = []*os.File{leaked, leaked, leaked}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"descriptor 3: bad file descriptor", "descriptor 4: <nil> 1\n", "descriptor 5: bad file descriptor"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("output lacks %q: %s", want, out)
		}
	}
}

// A program in a cell gets its own descriptors and none that this process
// has without close-on-exec.
func TestCellInheritsNothing(t *testing.T) {
	const leak = 77
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := unix.Dup2(int(null.Fd()), leak); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	out := runCell(t, Cell{}, fmt.Sprintf("fds=%d", leak+1))
	var got []string
	for line := range strings.Lines(out) {
		if fd, ok := strings.CutPrefix(line, "has "); ok {
			got = append(got, strings.TrimSpace(fd))
		}
	}
	if !slices.Equal(got, []string{"0", "1", "2"}) {
		t.Errorf("the program has descriptors %v, want 0, 1 and 2: %s", got, out)
	}
}
