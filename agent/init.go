package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
)

// Init is the card's PID 1: it makes the system usable, runs the agent and,
// at its end, takes the system down. It never returns. Whatever is wrong with
// the configuration, there is a console with a shell that says so: a card
// never panics because of what it was told.
func Init(version string) {
	began := uptime()
	// With one CPU the runtime's monitor finds no idle processor beside the one
	// in a system call, takes that away from it every 20 µs, and has to be
	// woken by the next: a third of the time of endpoint mode.
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

	a, err := boot(version, log)
	kids := newProcs()
	if err == nil {
		kids = a.procs
	} else {
		log.Sayf("this card has no network: %v", err)
		log.Sayf("its host writes %s and %s anew at the next start; here is a shell", control.ConfigPath, control.KeysDir)
	}
	// A card has few CPUs, and its host waits for the control API: nothing
	// else runs before that listens.
	local := func() {
		loadModules(log, modulesDir, lateList)
		go buryChildren(kids)
		go consoleShell(ctx, kids, log, cardName(a))
		go followKernel(context.Background(), log, "/dev/kmsg")
	}
	action := runUntil(ctx, cancel, a, asked, log, local)
	cancel()
	shutdown(action, log, console)
}

// boot reads what the host gave.
func boot(version string, log *Log) (*Agent, error) {
	data, err := os.ReadFile(control.ConfigPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing: the host gave this card no configuration", control.ConfigPath)
	}
	if err != nil {
		return nil, err
	}
	conf, err := control.ParseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", control.ConfigPath, err)
	}
	keys, err := control.LoadCardKeys(control.KeysDir)
	if err != nil {
		return nil, err
	}
	image, _ := os.ReadFile(control.ImagePath) // an older host writes none
	return New(Options{
		Config: conf, Keys: keys, Version: version, Image: strings.TrimSpace(string(image)), Log: log,
		Sysctl: "/proc/sys", Resolv: "/etc/resolv.conf", Modules: modulesDir,
	})
}

func cardName(a *Agent) string {
	if a == nil {
		return "card"
	}
	return a.opts.Config.EffectiveHostname()
}

// runUntil runs the agent until it or a signal says how this ends. It calls
// local as soon as the links are up, or cannot be.
func runUntil(ctx context.Context, cancel func(), a *Agent, asked <-chan Action, log *Log, local func()) Action {
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
			select { // leases are given back
			case <-ended:
			case <-time.After(3 * time.Second):
				log.Sayf("the agent did not end within 3 s")
			}
		}
		return action
	}
}

// watchSignals maps what is sent to an init. busybox's halt, poweroff and
// reboot send USR1, USR2 and TERM; ctrl-alt-del arrives as INT once the
// kernel is told not to reboot by itself.
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

// buryChildren waits for everybody who lost a parent.
func buryChildren(p *procs) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGCHLD)
	p.reap()
	for range c {
		p.reap()
	}
}
