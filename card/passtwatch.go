package card

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Passt of Debian 12 (of March 2023) can spin for ever when several packets of a
// connection that is being closed come at once. So it is watched: while frames
// wait for it, it must take some, or sleep at times.
const (
	passtLook = 100 * time.Millisecond
	// passtSpin is the CPU time that passt may use without either. One that is
	// alive takes what waits within milliseconds of it.
	passtSpin = 2 * time.Second
)

// errSpins: passt was killed because it did nothing but use CPU time.
var errSpins = errors.New("it used the CPU and read no packets")

// work is how passt stands at some moment.
type work struct {
	cpu     time.Duration // used so far
	sleeps  uint64        // times it has waited for something
	waiting int           // bytes that it has not read yet
}

// spin finds out from one look after the other whether passt spins.
type spin struct{ since, before work }

// look says whether passt has used CPU for too long without getting anywhere.
func (s *spin) look(now work) bool {
	if now.waiting == 0 || now.waiting < s.before.waiting || now.sleeps != s.before.sleeps {
		s.since = now
	}
	s.before = now
	return now.cpu-s.since.cpu >= passtSpin
}

// watch waits for the end of passt, and says when it spins; gauge is the socket
// that the pump writes to.
func watchPasst(pid int, gauge *os.File, ended <-chan struct{}) (spins bool) {
	tick := time.NewTicker(passtLook)
	defer tick.Stop()
	var s spin
	for {
		select {
		case <-ended:
			return false
		case <-tick.C:
		}
		now, err := passtWork(pid, int(gauge.Fd()))
		if err != nil {
			return false // it ended, or cannot be seen
		}
		if s.look(now) {
			return true
		}
	}
}

// passtWork reads proc_pid_stat(5), proc_pid_status(5) and SIOCOUTQ (unix(7)).
func passtWork(pid, gauge int) (w work, err error) {
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
	w.waiting, err = unix.IoctlGetInt(gauge, unix.SIOCOUTQ)
	return w, err
}
