package agent

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const consolePath = "/dev/console"

// openConsole makes the console PID 1's standard input, output and error. A
// kernel that found no /dev/console in the initramfs started it without them.
func openConsole() *os.File {
	f, err := os.OpenFile(consolePath, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return os.Stderr
	}
	for fd := range 3 {
		_ = unix.Dup3(int(f.Fd()), fd, 0)
	}
	return f
}

// consoleShell keeps a shell on the console until ctx ends. It needs no
// password, because only the host reaches the console.
func consoleShell(ctx context.Context, p *procs, log *Log, name string) {
	for ctx.Err() == nil {
		began := time.Now()
		err := runShell(p, name)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Printf("console shell: %v", err)
		}
		if time.Since(began) < time.Second && !sleep(ctx, 2*time.Second) {
			return
		}
	}
}

func runShell(p *procs, name string) error {
	tty, err := os.OpenFile(consoleTerminal(), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = tty.Close() }()
	cmd := &exec.Cmd{
		Path: "/bin/busybox", Args: []string{"sh", "-l"}, Dir: "/",
		Env: []string{
			"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "TERM=linux",
			"SHELL=" + shell, `PS1=` + name + `:\w# `,
		},
		Stdin: tty, Stdout: tty, Stderr: tty,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	}
	if err := p.start(cmd); err != nil {
		return err
	}
	return p.wait(cmd)
}

// consoleTerminal is the terminal behind /dev/console. /dev/console itself
// cannot be a controlling terminal, and without one there is no Ctrl-C.
func consoleTerminal() string {
	data, err := os.ReadFile("/sys/class/tty/console/active")
	if f := strings.Fields(string(data)); err == nil && len(f) > 0 {
		path := filepath.Join("/dev", f[len(f)-1])
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return consolePath
}

// drain waits until the console has sent its output.
func drain(console io.Writer) {
	if f, ok := console.(*os.File); ok {
		_ = unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1) // tcdrain(3)
	}
}
