//go:build amd64 || arm64 || arm || riscv64 || ppc64le || s390x

package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inside returns the path of a static program for cells. It is built once for all tests.
var inside = sync.OnceValues(func() (string, error) {
	path := filepath.Join(programs, "inside")
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "github.com/toe-project/toe/internal/sandbox/internal/inside")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err == nil {
		err = os.Chmod(path, 0o755)
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return path, err
})

// programCell returns a cell whose program does what args say.
func programCell(t *testing.T, c Cell, args ...string) Cell {
	t.Helper()
	program, err := inside()
	if err != nil {
		t.Fatalf("building the program for a cell: %v", err)
	}
	c.Path, c.Argv = "/inside", append([]string{"/inside"}, args...)
	c.Binds = append(c.Binds, Bind{Source: program, Target: "/inside"})
	// Threads count as processes, so the program uses few.
	c.Env = append(c.Env, "GOMAXPROCS=1", "GOGC=off")
	return c
}

// runCell runs the program in a cell and returns what it printed on both outputs.
func runCell(t *testing.T, c Cell, args ...string) string {
	t.Helper()
	skipWithoutNamespaces(t)
	c = programCell(t, c, args...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	p, err := Start(ctx, c, Stdio{Out: w, Err: w})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	_ = r.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(&out, r); err != nil {
		_ = p.Kill()
		t.Fatalf("reading the cell's output: %v", err)
	}
	<-p.Done()
	return out.String()
}

func skipWithoutNamespaces(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if n, err := os.ReadFile("/proc/sys/user/max_user_namespaces"); err == nil && strings.TrimSpace(string(n)) == "0" {
		t.Skip("user namespaces are off: user.max_user_namespaces is 0")
	}
}

func TestCellSeesNothing(t *testing.T) {
	out := runCell(t, Cell{
		Scratch: []Scratch{{Target: "/scratch", Bytes: 1 << 20}},
		Files:   map[string][]byte{"/etc/hello": []byte("hi\n")},
		Env:     []string{"PATH=/"},
	}, "ls=/", "ls=/etc", "id", "write=/new:1", "write=/etc/hello:1", "write=/scratch/f:1", "mount=/scratch", "env")
	t.Log(out)
	for _, want := range []string{"/ has etc inside scratch", "/etc has hello <nil>", "pid 1 ", "write /scratch/f DONE", "PATH=/"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q", want)
		}
	}
	for _, bad := range []string{"write /new DONE", "write /etc/hello DONE", "mount DONE"} {
		if strings.Contains(out, bad) {
			t.Errorf("output has %q", bad)
		}
	}
	if os.Geteuid() == 0 && !strings.Contains(out, "uid 65534") {
		t.Error("the program does not run as user 65534")
	}
}

func TestCellScratchIsBounded(t *testing.T) {
	out := runCell(t, Cell{Scratch: []Scratch{{Target: "/scratch", Bytes: 1 << 20}}}, "write=/scratch/f:2400000")
	if !strings.Contains(out, "no space left") {
		t.Errorf("2.4 MB fit into a scratch of 1 MiB: %s", out)
	}
}

// TestCellFilter: calls that User-Mode Linux does not need fail with an error (see umlPolicy for
// why they do not kill).
func TestCellFilter(t *testing.T) {
	if !hasUML {
		t.Skip("User-Mode Linux is an x86 port")
	}
	out := runCell(t, Cell{Filter: UMLFilter}, "say=alive", "unshare", "socket", "say=still alive")
	for _, want := range []string{"alive\n", "still alive", "unshare: operation not permitted", "socket: address family not supported"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q: %s", want, out)
		}
	}
}

func TestCellErrors(t *testing.T) {
	skipWithoutNamespaces(t)
	for _, c := range []struct {
		name, want string
		cell       Cell
	}{
		{"no program", "absolute path", Cell{}},
		{"relative bind", "two absolute paths", Cell{Path: "/x", Argv: []string{"/x"}, Binds: []Bind{{Source: "a", Target: "/a"}}}},
		{"scratch without size", "a size", Cell{Path: "/x", Argv: []string{"/x"}, Scratch: []Scratch{{Target: "/s"}}}},
		{"unknown filter", `no filter "x"`, Cell{Path: "/x", Argv: []string{"/x"}, Filter: "x"}},
		{"missing source", "/nonexistent", Cell{Path: "/x", Argv: []string{"/x"}, Binds: []Bind{{Source: "/nonexistent", Target: "/x"}}}},
		{"missing program", "/missing", Cell{Path: "/missing", Argv: []string{"/missing"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Start(context.Background(), c.cell, Stdio{})
			if err == nil {
				_ = p.Kill()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not name %q", err, c.want)
			}
		})
	}
}

// TestUMLPolicyNeverKills: see the comment at umlPolicy.
func TestUMLPolicyNeverKills(t *testing.T) {
	if !hasUML {
		t.Skip("User-Mode Linux is an x86 port")
	}
	p := umlPolicy()
	acts := []Action{p.Default, p.Foreign}
	for _, r := range p.Rules {
		acts = append(acts, r.Do)
		if len(r.Conds) > 0 {
			acts = append(acts, r.Else)
		}
	}
	for _, a := range acts {
		if a != Allow && a&^unix.SECCOMP_RET_DATA != unix.SECCOMP_RET_ERRNO {
			t.Errorf("action %#x would beat the card kernel's own SECCOMP_RET_TRAP", a)
		}
	}
	if got := run(t, p, auditArch, unix.SYS_PTRACE); got == Allow {
		t.Error("ptrace is allowed")
	}
}

// A program with a user of its own has a limit of processes. One that shares its user has none,
// since the limit would hit others.
func TestCellProcesses(t *testing.T) {
	const most = 20 // with the threads of a Go program
	own := 0
	if os.Geteuid() == 0 {
		if own = OwnUser("test"); own == 0 {
			t.Skip("there are no user ids for single cards here")
		}
		if out := runCell(t, Cell{Processes: most}, "fork=40"); !strings.Contains(out, "had 40 children") {
			t.Errorf("a program that shares its user is limited: %s", out)
		}
	}
	out := runCell(t, Cell{Processes: most, UID: own, GID: own}, "fork=40")
	var had int
	if _, err := fmt.Sscanf(out[strings.LastIndex(out, "had "):], "had %d children", &had); err != nil || had >= most || had < 5 {
		t.Errorf("a program that may have %d processes: %s", most, out)
	}
}

func TestCellData(t *testing.T) {
	out := runCell(t, Cell{Data: 160 << 20}, "data=200000000")
	if !strings.Contains(out, "limit 167772160\n") || !strings.Contains(out, "allocate: cannot allocate memory") {
		t.Errorf("200 MB of memory where 160 MiB are allowed: %s", out)
	}
	if out := runCell(t, Cell{Data: 320 << 20}, "data=200000000"); !strings.Contains(out, "allocate DONE") {
		t.Errorf("200 MB of memory where 320 MiB are allowed: %s", out)
	}
}

func TestOwnUser(t *testing.T) {
	a, b := OwnUser("a"), OwnUser("b")
	if os.Geteuid() != 0 || !mapped("/proc/self/uid_map", firstOwn) || !mapped("/proc/self/uid_map", lastOwn) {
		if a != 0 || b != 0 {
			t.Errorf("users %d and %d where there are none", a, b)
		}
		return
	}
	if a == b || a != OwnUser("a") || a < firstOwn || b > lastOwn {
		t.Errorf("users %d and %d, want two of their own", a, b)
	}
}
