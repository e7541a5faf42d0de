package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"runtime"
)

// helperName is argument 0 of the process that prepares a cell.
const helperName = "toe-sandbox-exec"

// helperOrder is the order to a helper.
type helperOrder struct {
	Cell  Cell
	Extra int // how many descriptors after the report are the program's
	CPU   int // where Cell.OneCPU stays; -1 for anywhere
}

// Bind is a file or directory of the host that is visible in the cell.
type Bind struct {
	Source string // on the host; opened with the caller's rights
	Target string // absolute, inside the cell
	Write  bool   // else mounted read-only
	Device bool   // a character device, else nodev
	// Optional leaves the bind out when Source does not exist.
	Optional bool
}

// Scratch is an empty directory of the cell's own, on a tmpfs that goes away
// with it.
type Scratch struct {
	Target string
	Bytes  int64 // the most it may hold
}

// Filter names a seccomp policy for the program in the cell.
type Filter string

const (
	NoFilter  Filter = ""    // the program brings its own (QEMU's -sandbox)
	UMLFilter Filter = "uml" // see uml_policy_amd64.go
)

// Cell is what a confined program can see and use. The program has no capabilities, sees no process
// but its own, and dies with the process that started it.
type Cell struct {
	Path    string   // the program's absolute path inside the cell
	Argv    []string // its arguments, from argument 0 on
	Env     []string // the whole environment
	Binds   []Bind
	Scratch []Scratch
	Files   map[string][]byte // small files to write: path in the cell to content
	// Programs are small files that can be executed.
	Programs map[string][]byte
	Links    map[string]string // symbolic links: path in the cell to target
	// UID and GID are what the program runs as when the caller is root; 0
	// means Nobody. Other callers keep their own user, in a user namespace.
	UID, GID int
	// Groups are extra groups, only when the caller is root.
	Groups []uint32
	// HostNetwork leaves the program in the caller's network namespace.
	HostNetwork bool
	Filter      Filter
	// FixedAddresses turns address randomization off, for programs that
	// would otherwise execute themselves again to get that.
	FixedAddresses bool
	OpenFiles      uint64 // RLIMIT_NOFILE; 0 means 1024
	// Processes is how many the program may have, threads too (RLIMIT_NPROC); 0 means as many as
	// the caller. The kernel counts them by user and user namespace, so a program that shares its
	// user with others (Nobody in the host's) is not limited: the others would be limited, too.
	Processes uint64
	// Data is the private memory of each of its processes in bytes (RLIMIT_DATA), 0 for no limit.
	// The limit applies to the helper, a Go program, too: it uses about 100 MiB, nearly all
	// untouched.
	Data uint64
	// OneCPU keeps the program and all its processes on one CPU of those that
	// the caller may use (see pickCPU).
	OneCPU bool
}

// check reports mistakes of the calling code before a process starts.
func (c Cell) check() error {
	if !path.IsAbs(c.Path) || len(c.Argv) == 0 {
		return fmt.Errorf("sandbox cell: program %q with arguments %q, want an absolute path and at least argument 0", c.Path, c.Argv)
	}
	for _, b := range c.Binds {
		if !path.IsAbs(b.Source) || !path.IsAbs(b.Target) {
			return fmt.Errorf("sandbox cell: bind of %q to %q, want two absolute paths", b.Source, b.Target)
		}
	}
	for _, s := range c.Scratch {
		if !path.IsAbs(s.Target) || s.Bytes <= 0 {
			return fmt.Errorf("sandbox cell: scratch %q of %d bytes, want an absolute path and a size", s.Target, s.Bytes)
		}
	}
	if _, err := filterPolicy(c.Filter); err != nil {
		return err
	}
	return nil
}

// Main turns this process into the program of a cell when it was started as a helper; otherwise it
// returns at once. Every program (and test binary) that starts cells calls it first in main.
func Main() {
	if len(os.Args) != 2 || os.Args[0] != helperName {
		return
	}
	var h helperOrder
	err := json.Unmarshal([]byte(os.Args[1]), &h)
	if err == nil {
		err = h.Cell.enter(h.Extra, h.CPU)
	}
	fmt.Fprint(os.NewFile(reportFD, "report"), err)
	os.Exit(1)
}

func filterPolicy(f Filter) (*Policy, error) {
	switch f {
	case NoFilter:
		return nil, nil
	case UMLFilter:
		if !hasUML {
			return nil, fmt.Errorf("sandbox cell: filter %q on %s: want amd64", f, runtime.GOARCH)
		}
		p := umlPolicy()
		return &p, nil
	}
	return nil, fmt.Errorf("sandbox cell: no filter %q", f)
}
