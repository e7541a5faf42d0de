package agent

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The last lines on the console. User-Mode Linux reboots by executing itself
// again, which its sandbox forbids. So it exits with an error in both cases, and
// machine/uml tells them apart by these lines.
const (
	lastWordsReboot   = "toe-agent: rebooting"
	lastWordsPowerOff = "toe-agent: powering off"
)

// shutdown takes the system down. It does not return.
func shutdown(action Action, log *Log, console io.Writer) {
	endProcesses()
	unix.Sync()
	unmountAll(log)
	words, command := lastWordsPowerOff, unix.LINUX_REBOOT_CMD_POWER_OFF
	if action == Reboot {
		words, command = lastWordsReboot, unix.LINUX_REBOOT_CMD_RESTART
	}
	_, _ = fmt.Fprintf(console, "\r\n%s\r\n", words)
	drain(console)
	err := unix.Reboot(command)
	_, _ = fmt.Fprintf(console, "toe-agent: reboot: %v\r\n", err)
	for { // the kernel panics when init exits
		time.Sleep(time.Hour)
	}
}

// endProcesses sends every process SIGTERM, and later SIGKILL.
func endProcesses() {
	if unix.Kill(-1, unix.SIGTERM) != nil {
		return // there is no other process
	}
	_ = unix.Kill(-1, unix.SIGHUP) // interactive shells ignore SIGTERM
	for range 100 {
		time.Sleep(10 * time.Millisecond)
		if !othersRun() {
			return
		}
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	time.Sleep(20 * time.Millisecond)
}

// othersRun reports whether another program still runs. kill(2) cannot tell, because
// it succeeds for kernel threads, too. Those have no command line, and neither
// has a zombie.
func othersRun() bool {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return true
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err != nil || pid == os.Getpid() {
			continue
		}
		if line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline"); err == nil && len(line) > 0 {
			return true
		}
	}
	return false
}
