package agent

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The last words on the console. User-Mode Linux reboots by starting itself
// again, which its sandbox forbids: it ends with an error either way, and
// whoever runs it tells the two apart by these lines.
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
	for { // an init that ends makes the kernel panic
		time.Sleep(time.Hour)
	}
}

// endProcesses asks everybody to end and then makes them.
func endProcesses() {
	if unix.Kill(-1, unix.SIGTERM) != nil {
		return // nobody is left
	}
	_ = unix.Kill(-1, unix.SIGHUP) // interactive shells ignore SIGTERM
	for range 100 {
		time.Sleep(10 * time.Millisecond)
		if !anybody() {
			return
		}
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	time.Sleep(20 * time.Millisecond)
}

// anybody says whether a program but this one still runs. Signals reach kernel
// threads as well, so kill(2) cannot tell; those have no command line, and
// neither has a program that has ended.
func anybody() bool {
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
