package sandbox

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const busybox = "/bin/busybox"

// runCell runs a script of busybox's shell in a cell and returns what it
// printed on both outputs.
func runCell(t *testing.T, c Cell, script string) string {
	t.Helper()
	if _, err := os.Stat(busybox); err != nil {
		t.Skip("busybox-static is not installed")
	}
	skipWithoutNamespaces(t)
	c.Path, c.Argv = "/sh", []string{"/sh", "-c", script}
	c.Binds = append(c.Binds, Bind{Source: busybox, Target: "/sh"})
	c.Links = map[string]string{}
	for _, applet := range []string{"id", "mount", "unshare", "ifconfig", "wc", "env", "grep", "true", "sleep"} {
		c.Links["/"+applet] = "/sh"
	}
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
	}, `echo root: *; echo /etc/*; echo pid $$; id -u
echo x >/new && echo WROTE-ROOT
echo x >/etc/hello && echo WROTE-FILE
echo x >/scratch/f && echo wrote scratch
mount -t tmpfs none /scratch && echo MOUNTED
unshare -U true && echo NEW-USERNS
ifconfig -a | grep -c HWaddr
env`)
	t.Log(out)
	for _, want := range []string{"scratch sh", "/etc/hello", "pid 1\n", "wrote scratch", "PATH=/"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q", want)
		}
	}
	for _, bad := range []string{"WROTE-ROOT", "WROTE-FILE", "MOUNTED"} {
		if strings.Contains(out, bad) {
			t.Errorf("output has %q", bad)
		}
	}
	if os.Geteuid() == 0 && !strings.Contains(out, "65534") {
		t.Error("the program does not run as user 65534")
	}
}

func TestCellScratchIsBounded(t *testing.T) {
	out := runCell(t, Cell{Env: []string{"PATH=/"}, Scratch: []Scratch{{Target: "/scratch", Bytes: 1 << 20}}},
		`i=0; while [ $i -lt 300 ]; do echo "$(printf '%8000s' x)"; i=$((i+1)); done >/scratch/f || echo FULL; wc -c </scratch/f`)
	if !strings.Contains(out, "FULL") && !strings.Contains(out, "No space left") {
		t.Errorf("2.4 MB fit into a scratch of 1 MiB: %s", out)
	}
}

// TestCellFilter: what User-Mode Linux does not need is refused, by an error
// (see umlPolicy for why not by death).
func TestCellFilter(t *testing.T) {
	out := runCell(t, Cell{Filter: UMLFilter, Env: []string{"PATH=/"}},
		`echo alive; unshare -U true 2>&1; ifconfig 2>&1; echo still alive`)
	for _, want := range []string{"alive", "still alive", "Operation not permitted", "Address family not supported"} {
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

// A program with a user of its own has its processes counted; one that shares
// its user is left alone, since others would pay.
func TestCellProcesses(t *testing.T) {
	null := []Bind{{Source: "/dev/null", Target: "/dev/null", Device: true, Write: true}}
	const script = `n=0; for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 1; exit 7) & done; for j in 1 2 3 4 5 6 7 8 9 10; do wait %$j; [ $? = 7 ] && n=$((n+1)); done; echo ran $n`
	own := 0
	if os.Geteuid() == 0 {
		if own = OwnUser("test"); own == 0 {
			t.Skip("there are no user ids for single cards here")
		}
		if out := runCell(t, Cell{Env: []string{"PATH=/"}, Binds: null, Processes: 4}, script); !strings.Contains(out, "ran 10") {
			t.Errorf("a program that shares its user is limited: %s", out)
		}
	}
	out := runCell(t, Cell{Env: []string{"PATH=/"}, Binds: null, Processes: 4, UID: own, GID: own}, script)
	if !strings.Contains(out, "can't fork") || strings.Contains(out, "ran 10") {
		t.Errorf("more processes than 4 were started: %s", out)
	}
}

func TestCellData(t *testing.T) {
	out := runCell(t, Cell{Env: []string{"PATH=/"}, Data: 160 << 20},
		`ulimit -d; x=$(printf '%100000000s' x); x=$x$x && echo ALLOCATED`)
	if !strings.Contains(out, "163840") || strings.Contains(out, "ALLOCATED") {
		t.Errorf("200 MB of memory where 160 MiB are allowed: %s", out)
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
