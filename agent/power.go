package agent

import (
	"fmt"
	"io"
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
		if unix.Kill(-1, 0) != nil {
			return
		}
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	time.Sleep(20 * time.Millisecond)
}
