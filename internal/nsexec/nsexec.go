// Package nsexec starts a program in namespaces that exist already.
//
// The kernel lets only a process with a single thread enter a user namespace
// (setns(2)), and a Go program never is one. So the process is forked here
// with raw system calls: between fork and exec the child has one thread,
// touches no memory that it did not get ready, and calls nothing of Go's
// runtime, exactly as syscall.forkAndExecInChild does.
package nsexec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bind lays the file Source over Target, in the child's own mount namespace.
type Bind struct {
	Source, Target string
	NoFollow       bool // over a symbolic link itself, where it leads nowhere (Linux 5.2)
}

// Command is a program and the namespaces it runs in. It keeps the caller's
// descriptors 0 to 2, session, process group and working directory.
type Command struct {
	User  *os.File // user namespace, nil for the caller's
	Net   *os.File // network namespace
	Binds []Bind
	Argv  []string
	Env   []string
}

// steps of the child, for the error message.
var steps = []string{
	"", "enter the user namespace", "enter the network namespace", "make a mount namespace", "make mounts private",
	"mount over a file", "die with the caller", "execute",
}

// plan is what the child needs, in the form system calls take it.
type plan struct {
	user, net uintptr // descriptors, none is ^0
	root      *byte
	binds     []bind
	empty     *byte
	path      *byte
	argv, env []*byte
	report    uintptr
	parent    uintptr             // pid of the process that forks
	ignored   [maxSignal + 1]bool // stay ignored, as under nohup(1)
}

type bind struct {
	from, to *byte
	noFollow bool
}

const maxSignal = 64

const none = ^uintptr(0)

// Process is a command that was started.
type Process struct {
	PID  int
	done chan struct{}
	ws   unix.WaitStatus
	err  error
}

// Wait returns how the process ended.
func (p *Process) Wait() (unix.WaitStatus, error) {
	<-p.done
	return p.ws, p.err
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Start runs the command. The error names the step that failed; a program
// that is not there is an *exec.Error.
func Start(c Command) (*Process, error) {
	pl, err := c.plan()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	pl.report, pl.parent = w.Fd(), uintptr(os.Getpid())
	p := &Process{done: make(chan struct{})}
	forked := make(chan error)
	go p.run(pl, forked)
	err = <-forked
	runtime.KeepAlive(c.User)
	runtime.KeepAlive(c.Net)
	w.Close()
	if err != nil {
		return nil, err
	}
	return p, readReport(r, c)
}

func (c Command) plan() (*plan, error) {
	if len(c.Argv) == 0 {
		return nil, errors.New("no program to run")
	}
	path, err := exec.LookPath(c.Argv[0])
	if err != nil {
		return nil, err
	}
	pl := &plan{user: none, net: c.Net.Fd()}
	for sig := 1; sig <= maxSignal; sig++ {
		pl.ignored[sig] = signal.Ignored(syscall.Signal(sig))
	}
	if c.User != nil {
		pl.user = c.User.Fd()
	}
	if pl.path, err = unix.BytePtrFromString(path); err != nil {
		return nil, err
	}
	if pl.root, err = unix.BytePtrFromString("/"); err != nil {
		return nil, err
	}
	if pl.empty, err = unix.BytePtrFromString(""); err != nil {
		return nil, err
	}
	if pl.argv, err = syscall.SlicePtrFromStrings(c.Argv); err != nil {
		return nil, err
	}
	if pl.env, err = syscall.SlicePtrFromStrings(c.Env); err != nil {
		return nil, err
	}
	for _, b := range c.Binds {
		from, err1 := unix.BytePtrFromString(b.Source)
		to, err2 := unix.BytePtrFromString(b.Target)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		pl.binds = append(pl.binds, bind{from, to, b.NoFollow})
	}
	return pl, nil
}

// run forks, and stays with the child: its death signal comes when the thread
// that forked it ends.
func (p *Process) run(pl *plan, forked chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, old, mask unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	syscall.ForkLock.Lock()
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old)
	mask = old
	unblockInternal(&mask)
	pid, errno := fork(pl, &mask)
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(pl)
	if errno != 0 {
		forked <- fmt.Errorf("fork: %w", errno)
		return
	}
	p.PID = int(pid)
	forked <- nil
	for {
		_, p.err = unix.Wait4(p.PID, &p.ws, 0, nil)
		if !errors.Is(p.err, unix.EINTR) {
			break
		}
	}
	close(p.done)
}

// unblockInternal takes the signals that C libraries keep to themselves out of a mask: 32 and 33 are
// glibc's (cancel, setxid), 34 is musl's. A thread of a program with cgo may have one blocked for a
// moment (32, seen once in a -race build on a busy machine), and a mask outlives execve: the command
// could neither cancel a thread nor change its user.
//
//go:nosplit
func unblockInternal(mask *unix.Sigset_t) {
	const bits = 8 * int(unsafe.Sizeof(mask.Val[0]))
	for sig := 32; sig <= 34; sig++ {
		mask.Val[(sig-1)/bits] &^= 1 << ((sig - 1) % bits)
	}
}

// readReport is nil when the child got as far as its program.
func readReport(r *os.File, c Command) error {
	var msg [8]byte
	if _, err := io.ReadFull(r, msg[:]); err != nil {
		return nil // closed by exec
	}
	step, errno := binary.NativeEndian.Uint32(msg[:]), unix.Errno(binary.NativeEndian.Uint32(msg[4:]))
	if int(step) == len(steps)-1 {
		return &exec.Error{Name: c.Argv[0], Err: errno}
	}
	return fmt.Errorf("%s: %w", steps[step], errno)
}

// sigaction is the kernel's struct for rt_sigaction(2), all zero: the default.
var sigDefault [4]uint64

// fork returns the child's id in the parent, and does not return in the child.
//
//go:noinline
//go:norace
//go:nosplit
func fork(pl *plan, old *unix.Sigset_t) (pid uintptr, errno unix.Errno) {
	flags, stack := uintptr(unix.SIGCHLD), uintptr(0)
	if runtime.GOARCH == "s390x" { // clone(2) has them the other way round there
		flags, stack = stack, flags
	}
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, flags, stack, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	step := uint32(0)
	var e syscall.Errno
	if pl.user != none {
		step = 1
		if _, _, e = syscall.RawSyscall(unix.SYS_SETNS, pl.user, unix.CLONE_NEWUSER, 0); e != 0 {
			goto failed
		}
	}
	step = 2
	if _, _, e = syscall.RawSyscall(unix.SYS_SETNS, pl.net, unix.CLONE_NEWNET, 0); e != 0 {
		goto failed
	}
	step = 3
	if _, _, e = syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWNS, 0, 0); e != 0 {
		goto failed
	}
	step = 4
	if _, _, e = syscall.RawSyscall6(unix.SYS_MOUNT, 0, uintptr(unsafe.Pointer(pl.root)), 0, unix.MS_REC|unix.MS_SLAVE, 0, 0); e != 0 {
		goto failed
	}
	step = 5
	for i := 0; i < len(pl.binds); i++ {
		from, to := uintptr(unsafe.Pointer(pl.binds[i].from)), uintptr(unsafe.Pointer(pl.binds[i].to))
		if !pl.binds[i].noFollow {
			if _, _, e = syscall.RawSyscall6(unix.SYS_MOUNT, from, to, 0, unix.MS_BIND, 0, 0); e != 0 {
				goto failed
			}
			continue
		}
		// mount(2) follows the link; move_mount(2) does not, unless told to.
		const cwd = ^uintptr(99) // AT_FDCWD, -100
		tree, _, errno := syscall.RawSyscall(unix.SYS_OPEN_TREE, cwd, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if e = errno; e != 0 {
			goto failed
		}
		if _, _, e = syscall.RawSyscall6(unix.SYS_MOVE_MOUNT, tree, uintptr(unsafe.Pointer(pl.empty)), cwd, to, unix.MOVE_MOUNT_F_EMPTY_PATH, 0); e != 0 {
			goto failed
		}
	}
	step = 6
	if _, _, e = syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0); e != 0 {
		goto failed
	}
	// A caller that was killed before this point sends no death signal.
	if parent, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); parent != pl.parent {
		e = unix.ESRCH
		goto failed
	}
	// Go's handlers must not run here: the default for every signal, before
	// any is let through.
	for sig := uintptr(1); sig <= maxSignal; sig++ {
		if pl.ignored[sig] {
			continue
		}
		syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&sigDefault)), 0, 8, 0, 0)
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(old)), 0, 8, 0, 0)
	step = 7
	_, _, e = syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(pl.path)), uintptr(unsafe.Pointer(&pl.argv[0])), uintptr(unsafe.Pointer(&pl.env[0])))
failed:
	msg := [2]uint32{step, uint32(e)}
	syscall.RawSyscall(unix.SYS_WRITE, pl.report, uintptr(unsafe.Pointer(&msg)), 8)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}
