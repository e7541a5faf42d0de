package nsexec

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// home is a process in new user and network namespaces, the caller's own ids
// kept, as the holder of toe exec's namespace is.
func home(t *testing.T) int {
	uid, gid := os.Geteuid(), os.Getegid()
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("user namespaces are not allowed here: %v", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

func command(t *testing.T, pid int, argv ...string) Command {
	c := Command{Argv: argv, Env: os.Environ()}
	for what, f := range map[string]**os.File{"net": &c.Net, "user": &c.User} {
		file, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, what))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
		*f = file
	}
	return c
}

// shell runs a script there and gives what it wrote into a file.
func shell(t *testing.T, pid int, script string, binds ...Bind) (string, unix.WaitStatus) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	c := command(t, pid, "sh", "-c", "exec >"+out+"; "+script)
	c.Binds = binds
	p, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	ws, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(out)
	return strings.TrimSpace(string(data)), ws
}

func TestRunsInTheNamespacesAsTheCaller(t *testing.T) {
	pid := home(t)
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	got, ws := shell(t, pid, "readlink /proc/self/ns/net; id -u; grep CapEff /proc/self/status; exit 7")
	lines := strings.Split(got, "\n")
	if len(lines) != 3 || lines[0] != want || lines[1] != fmt.Sprint(os.Geteuid()) {
		t.Errorf("ran in %q, want namespace %s and user %d", lines, want, os.Geteuid())
	}
	if os.Geteuid() != 0 && !strings.HasSuffix(got, "0000000000000000") {
		t.Errorf("kept capabilities: %q", lines)
	}
	if ws.ExitStatus() != 7 {
		t.Errorf("exit status %d, want 7", ws.ExitStatus())
	}
}

func TestBindIsSeenInThereOnly(t *testing.T) {
	pid := home(t)
	dir := t.TempDir()
	source, target := filepath.Join(dir, "s"), filepath.Join(dir, "t")
	for path, text := range map[string]string{source: "there", target: "here"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := shell(t, pid, "cat "+target, Bind{Source: source, Target: target}); got != "there" {
		t.Errorf("in there: %q", got)
	}
	if here, _ := os.ReadFile(target); !bytes.Equal(here, []byte("here")) {
		t.Errorf("here: %q", here)
	}
}

// A link that leads nowhere is covered itself: there is nothing behind it.
func TestBindOverADanglingLink(t *testing.T) {
	pid := home(t)
	dir := t.TempDir()
	source, target := filepath.Join(dir, "s"), filepath.Join(dir, "t")
	err := errors.Join(os.WriteFile(source, []byte("there"), 0o644), os.Symlink("/nonexistent/x", target))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := shell(t, pid, "cat "+target, Bind{Source: source, Target: target, NoFollow: true}); got != "there" {
		t.Errorf("in there: %q", got)
	}
	if to, err := os.Readlink(target); err != nil || to != "/nonexistent/x" {
		t.Errorf("here: %q, %v", to, err)
	}
}

func TestSignalsAreTheDefaultAgain(t *testing.T) {
	// The command must not inherit the blocked and caught signals of a Go program.
	got, _ := shell(t, home(t), "exec cat /proc/self/status")
	for line := range strings.Lines(got) {
		name, mask, _ := strings.Cut(line, ":")
		mask = strings.TrimSpace(mask)
		if slices.Contains([]string{"SigBlk", "SigCgt", "SigIgn"}, name) && strings.Trim(mask, "0") != "" && !(name == "SigIgn" && mask == "0000000000000001") {
			t.Errorf("%s in there: %s", name, mask)
		}
	}
	_, ws := shell(t, home(t), "kill -TERM $$")
	if !ws.Signaled() || ws.Signal() != unix.SIGTERM {
		t.Errorf("ended with %v, want SIGTERM", ws)
	}
}

func TestErrorsNameTheStep(t *testing.T) {
	pid := home(t)
	if _, err := Start(command(t, pid, "no-such-program")); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("a program that is not there: %v", err)
	}
	if _, err := Start(command(t, pid)); err == nil {
		t.Error("nothing to run is no error")
	}
	c := command(t, pid, "true")
	c.Binds = []Bind{{Source: "/no/such/file", Target: "/etc/hosts"}}
	if _, err := Start(c); err == nil || !strings.Contains(err.Error(), "mount over a file") {
		t.Errorf("a bind that fails: %v", err)
	}
	c = command(t, pid, "true")
	c.Net = c.User // not a network namespace
	if _, err := Start(c); err == nil || !strings.Contains(err.Error(), "enter the network namespace") {
		t.Errorf("a wrong namespace: %v", err)
	}
	script := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(script, []byte("\x00\x01"), 0o755); err != nil {
		t.Fatal(err)
	}
	var ee *exec.Error
	if _, err := Start(command(t, pid, script)); !errors.As(err, &ee) || !errors.Is(err, unix.ENOEXEC) {
		t.Errorf("not a program: %v", err)
	}
}

// A caller that was killed before the child could ask for its death signal is
// noticed: the program is not run.
func TestCallerThatIsGone(t *testing.T) {
	c := command(t, home(t), "touch", filepath.Join(t.TempDir(), "ran"))
	pl, err := c.plan()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pl.report, pl.parent = w.Fd(), 1 // the child is this process's
	p := &Process{done: make(chan struct{})}
	forked := make(chan error)
	go p.run(pl, forked)
	err = <-forked
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := readReport(r, c); !errors.Is(err, unix.ESRCH) {
		t.Errorf("%v, want %v", err, unix.ESRCH)
	}
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Argv[1]); err == nil {
		t.Error("the program was run")
	}
}

// A thread may have the C library's own signals (32 to 34) blocked for a moment. The command must
// not: it could neither cancel a thread nor change its user.
func TestInternalSignalsAreNotBlocked(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	pl, err := command(t, home(t), "sh", "-c", "exec cat /proc/self/status >"+out).plan()
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pl.report, pl.parent = w.Fd(), uintptr(os.Getpid())
	p, forked := &Process{done: make(chan struct{})}, make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the mask ends with the thread
		var set unix.Sigset_t
		for sig := 32; sig <= 34; sig++ {
			set.Val[(sig-1)/bits.UintSize] |= 1 << ((sig - 1) % bits.UintSize)
		}
		if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
			t.Error(err)
		}
		p.run(pl, forked)
	}()
	if err := <-forked; err != nil {
		t.Fatal(err)
	}
	w.Close()
	if ws, err := p.Wait(); err != nil || ws != 0 {
		t.Fatal(ws, err)
	}
	status, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "SigBlk:\t0000000000000000\n") {
		t.Errorf("the command has blocked signals:\n%s", status)
	}
}
