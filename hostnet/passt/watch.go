package passt

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// passt of March 2023 (Debian 12) can spin when several packets of a connection
// that is being closed arrive at once. The self-test cannot rule that out for
// other versions, so each passt is watched: while frames wait for it, it must read
// some, or sleep at times.
const (
	passtLook = 100 * time.Millisecond
	// passtRest is the time between two looks while no frame waits: one system
	// call each, since an idle card must not burn CPU.
	passtRest = time.Second
	// passtSpin is the CPU time that passt may use without either. A passt that
	// works reads what waits within milliseconds of it.
	passtSpin = 2 * time.Second
)

// errSpins: passt uses CPU time and does nothing else.
var errSpins = errors.New("it used the CPU and read no packets")

// work is the state of a passt at one moment.
type work struct {
	cpu     time.Duration // used so far
	sleeps  uint64        // times it has waited for something
	waiting int           // bytes that it has not read yet
}

// spin detects a passt that spins from a series of looks.
type spin struct{ since, before work }

// look returns true once passt has used passtSpin without progress.
func (s *spin) look(now work) bool {
	if now.waiting == 0 || now.waiting < s.before.waiting || now.sleeps != s.before.sleeps {
		s.since = now
	}
	s.before = now
	return now.cpu-s.since.cpu >= passtSpin
}

// watchPasst returns true when passt spins, and false when it has exited. gauge
// is the socket that the pump writes to.
func watchPasst(pid int, gauge *os.File, ended <-chan struct{}) (spins bool) {
	look := time.NewTimer(passtRest)
	defer look.Stop()
	var s spin
	for busy := false; ; {
		select {
		case <-ended:
			return false
		case <-look.C:
		}
		waiting, err := unix.IoctlGetInt(int(gauge.Fd()), unix.SIOCOUTQ) // unix(7)
		if err == nil && waiting == 0 {
			busy = false
			look.Reset(passtRest)
			continue
		}
		var now work
		if err == nil {
			now, err = passtWork(pid, waiting)
		}
		if err != nil {
			return false // it ended, or cannot be seen
		}
		if !busy {
			s, busy = spin{since: now, before: now}, true
		}
		if s.look(now) {
			return true
		}
		look.Reset(passtLook)
	}
}

// passtWork reads proc_pid_stat(5) and proc_pid_status(5).
func passtWork(pid, waiting int) (w work, err error) {
	w.waiting = waiting
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return w, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	const user, system, hertz = 11, 12, 100 // fields after the name; USER_HZ
	fields := strings.Fields(rest)
	if len(fields) <= system {
		return w, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	for _, f := range []string{fields[user], fields[system]} {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return w, err
		}
		w.cpu += time.Duration(ticks) * time.Second / hertz
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return w, err
	}
	for line := range strings.Lines(string(status)) {
		if n, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
			if w.sleeps, err = strconv.ParseUint(strings.TrimSpace(n), 10, 64); err != nil {
				return w, err
			}
		}
	}
	return w, nil
}
