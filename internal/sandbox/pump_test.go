//go:build amd64 || arm64 || arm || riscv64 || ppc64le || s390x

package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// childEnv names the function that a re-executed test binary runs in place
// of the tests: a filter cannot be taken off again.
const childEnv = "TOE_SANDBOX_TEST_CHILD"

func TestMain(m *testing.M) {
	Main()
	if name := os.Getenv(childEnv); name != "" {
		runChild(name)
	}
	os.Exit(withPrograms(m.Run))
}

// programs is a folder for the programs that tests build. A re-executed test binary uses the folder
// of its parent, which removes it.
var programs = os.Getenv(programsEnv)

const programsEnv = "TOE_SANDBOX_TEST_PROGRAMS"

func withPrograms(run func() int) int {
	if programs != "" {
		return run()
	}
	var err error
	if programs, err = os.MkdirTemp("", "toe-sandbox-test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(programs)
	return run()
}

func runChild(name string) {
	r, err := Pump(PumpOptions{Parent: os.Getppid()})
	if err != nil {
		fmt.Fprintln(os.Stderr, "Pump:", err)
		os.Exit(3)
	}
	fmt.Printf("uid=%d gid=%d note=%q\n", r.UID, r.GID, r.Note)
	if err := pumpChildren[name](); err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(4)
	}
	os.Exit(0)
}

// raw makes a system call without a library between.
func raw(nr, a, b, c uintptr) func() error {
	return func() error {
		_, _, e := unix.Syscall6(nr, a, b, c, 0, 0, 0)
		return fmt.Errorf("was allowed to return, errno %d", int(e))
	}
}

var passwd = append([]byte("/etc/passwd"), 0)

var pumpChildren = map[string]func() error{
	"work":         work,
	"clone3":       clone3,
	"mdwe":         mdwe,
	"open":         raw(unix.SYS_OPENAT, ^uintptr(99), uintptr(unsafe.Pointer(&passwd[0])), 0),
	"socket":       raw(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM, 0),
	"connect":      raw(unix.SYS_CONNECT, 0, 0, 0),
	"execve":       raw(unix.SYS_EXECVE, uintptr(unsafe.Pointer(&passwd[0])), 0, 0),
	"ioctl":        raw(unix.SYS_IOCTL, 0, unix.TUNGETFEATURES, 0),
	"ptrace":       raw(unix.SYS_PTRACE, 0, 0, 0),
	"fork":         raw(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0),
	"newuser":      raw(unix.SYS_CLONE, unix.CLONE_NEWUSER, 0, 0),
	"unshare":      raw(unix.SYS_UNSHARE, unix.CLONE_NEWNET, 0, 0),
	"mmap-exec":    raw(sysMmap, 0, 4096, unix.PROT_READ|unix.PROT_EXEC),
	"mprotect":     raw(unix.SYS_MPROTECT, 0, 4096, unix.PROT_EXEC),
	"kill":         raw(unix.SYS_KILL, 1, 0, 0),
	"tgkill-other": raw(unix.SYS_TGKILL, 1, 1, 0),
	"fcntl-dupfd":  raw(unix.SYS_FCNTL, 0, unix.F_DUPFD_CLOEXEC, 0),
	"prctl":        raw(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1, 0),
	"io_uring":     raw(unix.SYS_IO_URING_SETUP, 1, 0, 0),
	"bpf":          raw(unix.SYS_BPF, 0, 0, 0),
	"x32":          raw(unix.SYS_READ|0x40000000, 0, 0, 0),
	"unknown":      raw(100000, 0, 0, 0),
}

// TestPumpForbidden checks that each call outside the list ends the whole
// process by SIGSYS, not just with an error that an attacker could go on from.
func TestPumpForbidden(t *testing.T) {
	for name := range pumpChildren {
		if name == "work" || name == "clone3" || name == "mdwe" || name == "mmap-exec" && mmapBlock {
			continue
		}
		t.Run(name, func(t *testing.T) {
			out, err := child(name)
			var e *exec.ExitError
			if !errors.As(err, &e) {
				t.Fatalf("child ended with %v, want death by SIGSYS\n%s", err, out)
			}
			ws := e.Sys().(syscall.WaitStatus)
			if !ws.Signaled() || ws.Signal() != unix.SIGSYS {
				t.Fatalf("child ended with %v, want death by SIGSYS\n%s", err, out)
			}
		})
	}
}

// TestPumpWorks runs what the pump needs under the filter.
func TestPumpWorks(t *testing.T) {
	for _, name := range []string{"work", "clone3"} {
		out, err := child(name)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		if os.Geteuid() == 0 && !strings.Contains(out, "uid=65534 gid=65534") {
			t.Errorf("%s: privileges were not dropped: %s", name, out)
		}
	}
}

// TestPumpMDWE: where the filter cannot see what mmap(2) asks for, the kernel refuses memory that can
// be written and run.
func TestPumpMDWE(t *testing.T) {
	if !mmapBlock {
		t.Skip("the filter sees the arguments of mmap(2)")
	}
	if err := unix.Prctl(unix.PR_GET_MDWE, 0, 0, 0, 0); err != nil {
		t.Skipf("prctl(PR_GET_MDWE): %v (needs Linux 6.3)", err)
	}
	if out, err := child("mdwe"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func mdwe() error {
	_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != unix.EACCES {
		return fmt.Errorf("mmap of memory to write and run: %v, want EACCES", err)
	}
	return nil
}

// TestReportLacks: Lacks names what is missing, and nothing else.
func TestReportLacks(t *testing.T) {
	for want, r := range map[string]Report{
		"":                            {UID: 65534, GID: 65534, Landlock: 7},
		"this kernel has no Landlock": {},
		"kept the user":               {Landlock: 1, Note: "kept the user"},
		"this kernel has no Landlock; kept the user": {Note: "kept the user"},
	} {
		if got := r.Lacks(); got != want {
			t.Errorf("%+v lacks %q, want %q", r, got, want)
		}
	}
}

func child(name string) (string, error) {
	cmd := exec.Command("/proc/self/exe")
	// As link.LaunchProcess has it, for a -race build.
	cmd.Env = append(os.Environ(), childEnv+"="+name, "MALLOC_ARENA_MAX=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// work is a miniature pump: many threads blocked in system calls at once, garbage with collections,
// epoll, pipes of an eventfd, timers.
func work() error {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	ep, err := unix.EpollCreate1(0)
	if err != nil {
		return err
	}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { churn(ep, fd) })
	}
	wg.Wait()
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil {
		return err
	}
	m, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_SHARED)
	if err != nil {
		return err
	}
	m[0] = 1
	return unix.Munmap(m)
}

func churn(ep, fd int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	events := make([]unix.EpollEvent, 4)
	one := []byte{1, 0, 0, 0, 0, 0, 0, 0}
	var keep [][]byte
	for i := range 200 {
		keep = append(keep, make([]byte, 64<<10))
		if i%20 == 0 {
			keep = nil
			runtime.GC()
		}
		_, _ = unix.Write(fd, one)
		_, _ = unix.EpollWait(ep, events, 1)
	}
	runtime.KeepAlive(keep)
	time.Sleep(time.Millisecond)
}

func clone3() error {
	_, _, e := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0)
	if e != unix.ENOSYS {
		return fmt.Errorf("clone3: errno %d, want ENOSYS so that callers fall back to clone", int(e))
	}
	return nil
}
