package sandbox

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/fds"
)

// aliveByte is written to the report once the parent's death signal is armed.
const aliveByte = "."

// Not in x/sys: linux/securebits.h. Root loses its privileges permanently.
const secureNoRoot = 1<<0 | 1<<1 | 1<<2 | 1<<3 // NOROOT, NO_SETUID_FIXUP, each locked

// enter turns this helper into the program of the cell. It only returns with
// an error. Order matters: mounts need the privileges, the filter comes last.
func (c Cell) enter(extra, cpu int) error {
	runtime.LockOSThread()
	unix.CloseOnExec(reportFD)
	// The program gets no descriptor that the caller inherited.
	if err := fds.CloseOnExecFrom(reportFD + 1 + extra); err != nil {
		return err
	}
	policy, err := filterPolicy(c.Filter)
	if err != nil {
		return err
	}
	own := ownUser()
	if err := c.buildRoot(own); err != nil {
		return err
	}
	if err := c.limits(own); err != nil {
		return err
	}
	stayOn(cpu)
	if err := c.surrender(own); err != nil {
		return err
	}
	if err := armAndTell(); err != nil {
		return err
	}
	if c.FixedAddresses {
		const addrNoRandomize = 0x0040000 // linux/personality.h
		if _, _, e := unix.RawSyscall(unix.SYS_PERSONALITY, addrNoRandomize, 0, 0); e != 0 {
			return fmt.Errorf("personality(ADDR_NO_RANDOMIZE): %w", e)
		}
	}
	return c.execute(policy)
}

func (c Cell) limits(own bool) error {
	type limit struct {
		name string
		res  int
		max  uint64
	}
	files := c.OpenFiles
	if files == 0 {
		files = 1024
	}
	limits := []limit{{"RLIMIT_CORE", unix.RLIMIT_CORE, 0}, {"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK, 0},
		{"RLIMIT_MSGQUEUE", unix.RLIMIT_MSGQUEUE, 0}, {"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, files}}
	if shared := own && orNobody(c.UID) == Nobody; c.Processes > 0 && !shared {
		limits = append(limits, limit{"RLIMIT_NPROC", unix.RLIMIT_NPROC, c.Processes})
	}
	if c.Data > 0 {
		limits = append(limits, limit{"RLIMIT_DATA", unix.RLIMIT_DATA, c.Data})
	}
	for _, l := range limits {
		// syscall, not unix: it keeps os/exec's bookkeeping of NOFILE right.
		if err := syscall.Setrlimit(l.res, &syscall.Rlimit{Cur: l.max, Max: l.max}); err != nil {
			return fmt.Errorf("setrlimit(%s, %d): %w", l.name, l.max, err)
		}
	}
	return nil
}

// surrender gives up user, groups, capabilities and the way back to them.
func (c Cell) surrender(own bool) error {
	if err := dropBounding(thisThread); err != nil {
		return err
	}
	if err := thisThread(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, secureNoRoot, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_SECUREBITS): %w", err)
	}
	if own {
		if err := c.becomeUser(); err != nil {
			return err
		}
	}
	if err := clearCapabilities(thisThread); err != nil {
		return err
	}
	if err := thisThread(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_NO_NEW_PRIVS): %w", err)
	}
	return nil
}

// becomeUser acts on this thread alone; the syscall package's functions act on all.
func (c Cell) becomeUser() error {
	uid, gid := uintptr(orNobody(c.UID)), uintptr(orNobody(c.GID))
	groups := append([]uint32{}, c.Groups...)
	if err := thisThread(sysSetgroups, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0); err != nil {
		return fmt.Errorf("setgroups(%v): %w", groups, err)
	}
	if err := thisThread(sysSetresgid, gid, gid, gid); err != nil {
		return fmt.Errorf("setresgid(%d): %w", gid, err)
	}
	if err := thisThread(sysSetresuid, uid, uid, uid); err != nil {
		return fmt.Errorf("setresuid(%d): %w", uid, err)
	}
	return nil
}

// armAndTell arms the death signal again, which the change of user has
// cancelled, and then writes to the parent: if it has died before that, the
// write fails. (Its process id is no help: it is 0 as seen from here.)
func armAndTell() error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_PDEATHSIG): %w", err)
	}
	if _, err := unix.Write(reportFD, []byte(aliveByte)); err != nil {
		return fmt.Errorf("the starting process has ended: %w", err)
	}
	return nil
}

// execute installs the filter and becomes the program. Nothing may happen
// between the two but the one system call: the filter is the program's, not
// the Go runtime's. Signals stay at their defaults across execve.
func (c Cell) execute(policy *Policy) error {
	path, err := unix.BytePtrFromString(c.Path)
	if err != nil {
		return fmt.Errorf("program %q: %w", c.Path, err)
	}
	args, err := syscall.SlicePtrFromStrings(c.Argv)
	if err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	envp, err := syscall.SlicePtrFromStrings(c.Env)
	if err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	if _, err := os.Stat(c.Path); err != nil {
		return errors.New(err.Error())
	}
	// A signal mask outlives execve. The program starts with an empty one.
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, new(unix.Sigset_t), nil); err != nil {
		return fmt.Errorf("sigprocmask: %w", err)
	}
	if policy != nil {
		if err := install(*policy, 0); err != nil {
			return err
		}
	}
	return rawExec(path, &args[0], &envp[0], c.Path)
}
