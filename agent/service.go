package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// On a card with a root on a disk the agent is a service of the root's init, systemd.

// pidFile, in runDir, has the number of the agent that PID 1 started.
const pidFile = "agent.pid"

// Early is the agent that PID 1 starts in the root before it executes the root's init. It closes
// descriptor 3 when it carries traffic. It returns at SIGTERM.
func Early(version string) error {
	ready := os.NewFile(3, "ready")
	return runService(version, os.Stderr, func(a *Agent) {
		a.spawn(func() {
			for !a.carries() && sleep(a.run, 5*time.Millisecond) {
			}
			_ = ready.Close()
		})
	})
}

// carries reports whether links, firewall and endpoint mode have been set up, or cannot be. Addresses
// of ports may still be missing.
func (a *Agent) carries() bool {
	for _, p := range []part{partOf[*linksPart](a.env), partOf[*firewallPart](a.env), partOf[*offloadPart](a.env)} {
		for _, r := range p.health() {
			if r.state == starting {
				return false
			}
		}
	}
	return true
}

// Serve is the process of toe-agent.service. It makes an agent that PID 1 started the service's main
// process, and returns. Without one it is the agent itself.
func Serve(version string) error {
	if pid := earlyAgent(); pid > 0 {
		err := joinCgroup(pid)
		if err == nil {
			err = notify(fmt.Sprintf("MAINPID=%d\nREADY=1", pid))
		}
		if err != nil {
			err = fmt.Errorf("adopting the agent %d: %w", pid, err)
		}
		return err
	}
	return runService(version, os.Stderr, func(*Agent) { _ = notify("READY=1") })
}

// earlyAgent returns the process of the agent that PID 1 started, or 0 where it has ended.
func earlyAgent() int {
	text, err := os.ReadFile(filepath.Join(runDir, pidFile))
	pid, perr := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || perr != nil || pid <= 1 {
		return 0
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || string(args) != agentProgram+"\x00early\x00" {
		return 0 // the number belongs to another process by now
	}
	return pid
}

// joinCgroup moves a process to the cgroup of this one.
func joinCgroup(pid int) error {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			procs := filepath.Join("/sys/fs/cgroup", path, "cgroup.procs")
			return os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0o644)
		}
	}
	return fmt.Errorf("/proc/self/cgroup: %q has no line of cgroup 2", text)
}

// notify tells systemd the state of the service (sd_notify(3)).
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return errors.New("NOTIFY_SOCKET is not set: this is a service of systemd")
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = c.Write([]byte(state))
	return err
}

// runService is the agent's life as a service. It returns nil at SIGTERM, and when systemd takes the
// card down. Linked is called after the first try to bring up the links.
func runService(version string, console *os.File, linked func(*Agent)) error {
	began := uptime()
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0))) // see Init
	// The card's network comes before its other programs.
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -10)
	log := NewLog(console)
	log.Printf("toe-agent %s started %v after the kernel", version, began.Round(time.Millisecond))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	a, err := boot(version, log, setting{dir: runDir, service: true})
	if err != nil {
		return err
	}
	a.opts.Linked = func() {
		linked(a)
		a.spawn(func() { loadModules(log, modulesDir, lateList) })
		go followKernel(context.Background(), log, "/dev/kmsg")
		go growRoot(log)
	}
	a.end = func(action Action) { askInit(log, action) }
	_, err = a.Run(ctx)
	return err
}

// askInit tells systemd to end the card (systemd(1), "Signals"). The agent goes on until its turn comes.
func askInit(log *Log, action Action) {
	const sigRTMin = 34 // of the C library
	s := syscall.Signal(sigRTMin + 4)
	if action == Reboot {
		s = sigRTMin + 5
	}
	if err := unix.Kill(1, s); err != nil {
		log.Sayf("asking init to %s: %v", action, err)
	}
}
