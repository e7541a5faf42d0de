package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
)

// Init is the card's PID 1. It sets up the system, runs the agent and shuts the
// system down afterwards. It does not return. With a bad configuration there is
// still a console, with a shell and the reason: the card's kernel must not panic
// because of a configuration.
func Init(version string) {
	began := uptime()
	// With one processor, Go's monitor retakes the one that is in a system call
	// every 20 µs, because no other is idle, and must be woken for the next: a third
	// of the time of endpoint mode. With two it does not.
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0)))
	mountAll()
	console := openConsole()
	log := NewLog(console)
	log.Printf("toe-agent %s started %v after the kernel", version, began.Round(time.Millisecond))
	logMounts(log)
	loadModules(log, modulesDir, earlyList)

	ctx, cancel := context.WithCancel(context.Background())
	asked := make(chan Action, 4)
	watchSignals(asked)

	noRoot := goToRoot(log)
	if noRoot != nil {
		log.Sayf("%v; the card goes on without it", noRoot)
	}
	a, err := boot(version, log, setting{dir: "/etc/toe", noRoot: noRoot})
	kids := newProcs()
	if err == nil {
		kids = a.procs
	} else {
		log.Sayf("this card has no network: %v", err)
		log.Sayf("fix: restart the card: its host then writes %s and %s again; here is a shell",
			control.ConfigPath, control.KeysDir)
	}
	// A card has few CPUs, and its host waits for the control API: nothing else
	// runs before the API listens.
	local := func() {
		loadModules(log, modulesDir, lateList)
		go reapOrphans(kids)
		if a == nil || !a.config().ZeroTrust {
			go consoleShell(ctx, kids, log, cardName(a))
		}
		go followKernel(context.Background(), log, "/dev/kmsg")
	}
	action := runUntil(ctx, cancel, a, asked, log, local)
	cancel()
	shutdown(action, log, console)
}

// setting is where an agent runs.
type setting struct {
	dir     string // with the files that the host wrote
	service bool   // see Options
	noRoot  error
}

// in is a file of the host below the setting's folder; path is where the host wrote it.
func (s setting) in(path string) string { return filepath.Join(s.dir, filepath.Base(path)) }

// boot makes the agent from the files that the host wrote.
func boot(version string, log *Log, s setting) (*Agent, error) {
	path := s.in(control.ConfigPath)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: the host wrote no configuration", path)
	}
	if err != nil {
		return nil, err
	}
	conf, err := control.ParseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	keys, err := control.LoadCardKeys(s.in(control.KeysDir))
	if err != nil {
		return nil, err
	}
	if s.service {
		if conf, err = (trust{trustDir, openBootEnv}).admit(conf, &keys); err != nil {
			return nil, err
		}
		if conf.ZeroTrust {
			if err := os.WriteFile(trustFlag, nil, 0o600); err != nil {
				return nil, err
			}
		}
	}
	image, _ := os.ReadFile(s.in(control.ImagePath)) // an older host writes none
	cmdline, _ := os.ReadFile("/proc/cmdline")
	return New(Options{
		Cmdline: string(cmdline),
		Config:  conf, Keys: keys, Log: log,
		Version: version, Image: strings.TrimSpace(string(image)),
		Sysctl: "/proc/sys", Resolv: "/etc/resolv.conf", Modules: modulesDir,
		Service: s.service, NoRoot: s.noRoot,
	})
}

func cardName(a *Agent) string {
	if a == nil {
		return "card"
	}
	return a.opts.Config.EffectiveHostname()
}

// runUntil runs the agent until the agent or a signal decides how it ends. It
// calls local after the first try to bring up the links.
func runUntil(
	ctx context.Context, cancel func(), a *Agent, asked <-chan Action, log *Log, local func(),
) Action {
	ended := make(chan Action, 1)
	if a == nil {
		local()
	} else {
		local = sync.OnceFunc(local)
		a.opts.Linked = local
		go func() {
			action, err := a.Run(ctx)
			if err != nil {
				log.Sayf("this card has no network: %v; here is a shell", err)
				local()
				return
			}
			ended <- action
		}()
	}
	select {
	case action := <-ended:
		return action
	case action := <-asked:
		cancel()
		if a != nil {
			select { // leases are released
			case <-ended:
			case <-time.After(3 * time.Second):
				log.Sayf("the agent did not end within 3 s")
			}
		}
		return action
	}
}

// watchSignals maps the signals of an init. busybox's halt, poweroff and reboot
// send USR1, USR2 and TERM. Ctrl-alt-del arrives as INT, after the kernel was
// told not to reboot on it.
func watchSignals(asked chan<- Action) {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for s := range c {
			action := PowerOff
			if s == syscall.SIGTERM || s == syscall.SIGINT {
				action = Reboot
			}
			select {
			case asked <- action:
			default:
			}
		}
	}()
}

// reapOrphans reaps reparented children.
func reapOrphans(p *procs) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGCHLD)
	p.reap()
	for range c {
		p.reap()
	}
}
