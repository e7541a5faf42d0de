package sandbox

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Nobody is the default user and group of a privileged process (Debian's nobody and nogroup).
const Nobody = 65534

// PumpOptions configures Pump. The zero value is the default.
type PumpOptions struct {
	// UID and GID are taken when the process has the right to change them
	// and they exist in its user namespace; 0 means Nobody.
	UID, GID int
	// Parent, if not 0, is the process id that must be this one's parent:
	// when it ends the pump gets SIGKILL, also after the change of user,
	// which would otherwise cancel that. Pump fails if it ended already.
	Parent int
	// Disk, if not nil, also allows the system calls of a disk's worker on its file.
	Disk *DiskFile
}

// DiskFile is the descriptor of a disk's file.
type DiskFile struct {
	FD       int
	ReadOnly bool
}

// Report describes the confinement in place.
type Report struct {
	UID, GID int
	Landlock int    // ABI version that is enforced; 0 means the kernel has none
	Note     string // why the user is not the one that was asked for; empty if it is
	Exec     string // why the pump could make memory executable; empty if it cannot
}

// Lacks describes the confinement that is missing, for messages; empty if none is.
func (r Report) Lacks() string {
	lacks := []string{}
	if r.Landlock == 0 {
		lacks = append(lacks, "this kernel has no Landlock")
	}
	if r.Note != "" {
		lacks = append(lacks, r.Note)
	}
	if r.Exec != "" {
		lacks = append(lacks, r.Exec)
	}
	return strings.Join(lacks, "; ")
}

// Pump drops every right of this process except the use of the descriptors it holds, on all of its
// threads, irrevocably. Call it when everything is open: afterwards any system call outside the
// allow list (pump_policy.go) ends the process with SIGSYS. On an error the process is half
// confined and must exit.
func Pump(o PumpOptions) (Report, error) {
	// Load the time zone now: the first time.Local would open a file later.
	_, _ = time.Now().Zone()

	var r Report
	if err := dropPrivileges(o, &r); err != nil {
		return r, err
	}
	if err := limitResources(); err != nil {
		return r, err
	}
	if err := armParentDeath(o.Parent); err != nil {
		return r, err
	}
	if err := restrictLandlock(&r); err != nil {
		return r, err
	}
	refuseExec(&r)
	if err := checkThreads(); err != nil {
		return r, err
	}
	return r, install(pumpPolicy(os.Getpid(), o.Disk), unix.SECCOMP_FILTER_FLAG_TSYNC)
}

// refuseExec has the kernel refuse memory that becomes executable, where the filter cannot. It is
// the weaker way: a file may still be mapped twice, to be written and to be run.
func refuseExec(r *Report) {
	if !mmapBlock {
		return
	}
	if err := unix.Prctl(unix.PR_SET_MDWE, unix.PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0); err != nil {
		r.Exec = fmt.Sprintf("it can make memory executable: prctl(PR_SET_MDWE): %v (needs Linux 6.3)", err)
	}
}

// limitResources keeps the pump's memory, which maps the card's, out of core
// files. RLIMIT_NPROC is left alone: it counts every thread of the user, so a
// low one would stop the Go runtime from starting threads, and the filter
// allows no processes anyway.
func limitResources() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE, 0): %w", err)
	}
	for name, res := range map[string]int{"RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK} {
		if err := unix.Setrlimit(res, &unix.Rlimit{}); err != nil {
			return fmt.Errorf("setrlimit(%s, 0): %w", name, err)
		}
	}
	return nil
}

// armParentDeath asks for SIGKILL when the parent ends. It is set on every
// thread because any one of them may carry it, and they come and go.
func armParentDeath(parent int) error {
	if parent == 0 {
		return nil
	}
	if err := allThreads(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_PDEATHSIG): %w", err)
	}
	if p := os.Getppid(); p != parent {
		return fmt.Errorf("the parent is process %d, not %d: it ended before the pump was ready", p, parent)
	}
	return nil
}
