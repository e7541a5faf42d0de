// Command init is PID 1 of the small system that test/torture installs, in systemd's place. It starts
// the services that an update needs, and ends the card in good order. As systemctl it answers the two
// questions that the agent and RAUC's scripts ask.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ending    = "/run/ending"
	raucPID   = "/run/rauc.pid"
	busSocket = "/run/dbus/system_bus_socket"
)

func main() {
	if filepath.Base(os.Args[0]) == "systemctl" {
		systemctl(os.Args[1:])
		return
	}
	asked := make(chan os.Signal, 4)
	signal.Notify(asked, powerOff, reboot)
	go reap()
	if err := start(); err != nil {
		fmt.Println("init:", err)
	}
	end(<-asked)
}

// The signals by which the agent asks systemd (agent/service.go).
const (
	powerOff = syscall.Signal(34 + 4)
	reboot   = syscall.Signal(34 + 5)
)

func systemctl(args []string) {
	switch strings.Join(args, " ") {
	case "is-system-running":
		if _, err := os.Stat(ending); err == nil {
			fmt.Println("stopping")
			os.Exit(1)
		}
		fmt.Println("running")
	case "stop rauc.service":
		text, _ := os.ReadFile(raucPID)
		if pid, err := strconv.Atoi(string(text)); err == nil {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	}
}

func start() error {
	for _, dir := range []string{"/run/dbus", "/run/rauc/mnt", "/run/lock", "/run/sshd", "/dev/disk/by-partlabel"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("tmpfs", "/tmp", "tmpfs", 0, ""); err != nil {
		return err
	}
	if err := linkPartitions(); err != nil {
		return err
	}
	if _, err := spawn("/usr/bin/dbus-daemon", "--system", "--nofork", "--nopidfile"); err != nil {
		return err
	}
	for range 500 {
		if _, err := os.Stat(busSocket); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	// As rauc.service has it.
	pid, err := spawn("/bin/sh", "-c", "/usr/lib/toe/rauc-config && exec /usr/bin/rauc --mount=/run/rauc/mnt service")
	if err != nil {
		return err
	}
	if err := os.WriteFile(raucPID, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return err
	}
	// The card is healthy when sshd listens, so that comes last.
	_, err = spawn("/bin/sh", "-c", "until rauc status >/dev/null 2>&1; do sleep 0.05; done; exec /usr/sbin/sshd -D")
	return err
}

// linkPartitions does udev's work for partitions.
func linkPartitions() error {
	names, err := filepath.Glob("/sys/class/block/*/uevent")
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for line := range bytes.Lines(text) {
			label, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("PARTNAME="))
			if !ok {
				continue
			}
			device := filepath.Base(filepath.Dir(name))
			if err := os.Symlink("../../"+device, "/dev/disk/by-partlabel/"+string(label)); err != nil {
				return err
			}
		}
	}
	return nil
}

func spawn(program string, args ...string) (int, error) {
	p, err := os.StartProcess(program, append([]string{program}, args...), &os.ProcAttr{
		Dir: "/", Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Setsid: true},
		Env: []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C.UTF-8"},
	})
	if err != nil {
		return 0, err
	}
	return p.Pid, p.Release()
}

func reap() {
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); err != nil {
			time.Sleep(50 * time.Millisecond) // no child
		}
	}
}

// end takes the card down in good order.
func end(why os.Signal) {
	_ = os.WriteFile(ending, nil, 0o644)
	_ = unix.Kill(-1, unix.SIGTERM)
	for range 200 { // the agent ends last
		if !agentRuns() {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	unix.Sync()
	_ = unix.Mount("", "/data", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	command := unix.LINUX_REBOOT_CMD_POWER_OFF
	if why == reboot {
		command = unix.LINUX_REBOOT_CMD_RESTART
	}
	fmt.Println("init:", unix.Reboot(command))
	select {}
}

func agentRuns() bool {
	text, err := os.ReadFile("/run/toe/agent.pid")
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	return err == nil && unix.Kill(pid, 0) == nil
}
