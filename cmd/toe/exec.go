package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/internal/nsexec"
	"github.com/toe-project/toe/internal/privilege"
	"github.com/toe-project/toe/internal/progress"
)

// Exit statuses of a shell for a program that cannot be run.
const (
	exitCannotRun = 126
	exitNotFound  = 127
)

func execCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec [NAME] -- CMD…",
		Short: "Run a command here with the card as its only network",
		Long: `Exec runs CMD on this host, as you, in a network namespace whose only way out
is the card; names are resolved by the card. No root is needed. When no card
is named and card0 is not running, CMD gets a card of its own that lives as
long as CMD does. The exit status is CMD's, and signals are passed on to it.`,
		Example:           "  toe exec -- curl https://example.org\n  toe exec edge -- sh",
		Annotations:       map[string]string{cli.RunsCommand: ""},
		ValidArgsFunction: completeCards,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, words, err := splitDash(cmd, args)
			if err != nil {
				return err
			}
			if len(words) == 0 {
				return cli.Usage{Err: errors.New("exec: which command? `toe exec [NAME] -- CMD…`")}
			}
			return execIn(cmd, names, words)
		},
	}
	return cmd
}

func execIn(cmd *cobra.Command, names, words []string) error {
	if _, err := exec.LookPath(words[0]); err != nil {
		return cannotRun(err)
	}
	if len(names) > 0 {
		c, err := openCard(names)
		if err != nil {
			return err
		}
		return join(cmd.Context(), c, words)
	}
	dirs, err := store.DefaultDirs()
	if err != nil {
		return err
	}
	if c, err := dirs.Open(spec.DefaultName); err == nil && c.Running() {
		return join(cmd.Context(), c, words)
	}
	return execOwn(cmd.Context(), dirs, words)
}

// withoutExec takes off the "exec: " that os/exec begins with, and says the
// program's name once.
func withoutExec(err error) error {
	var lookup *exec.Error
	if !errors.As(err, &lookup) {
		return err
	}
	why := lookup.Err
	var path *fs.PathError
	if errors.As(why, &path) {
		why = path.Err
	}
	return fmt.Errorf("%q: %w", lookup.Name, why)
}

func cannotRun(err error) error {
	fmt.Fprintf(cli.Visible{Writer: os.Stderr}, "toe: exec: %v\n", withoutExec(err))
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return cli.Exit(exitNotFound)
	}
	return cli.Exit(exitCannotRun)
}

// execOwn runs words with a card of their own, which is gone afterwards.
func execOwn(ctx context.Context, dirs store.Dirs, words []string) (err error) {
	c, err := dirs.Create(store.Temporary(os.Getpid()), store.Home())
	if err != nil {
		return err
	}
	claim, err := c.Claim()
	if err != nil {
		return fmt.Errorf("card %s: %w", c.Name, err)
	}
	defer claim.Release()
	// When this process is killed, the pipe breaks, and the card goes down.
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	var p *progress.Progress
	if term.IsTerminal(int(os.Stderr.Fd())) {
		p = progress.New(os.Stderr)
	}
	defer func() {
		w.Close()
		end, cancel := context.WithTimeout(context.Background(), downLimit)
		defer cancel()
		if e := errors.Join(client.AwaitEnd(end, c), client.Remove(c)); e != nil && err == nil {
			err = e
		}
	}()
	if _, err := bringUp(ctx, c, p, r); err != nil {
		return err
	}
	return join(ctx, c, words)
}

// join runs words in the card's namespace and ends as they do.
func join(ctx context.Context, c *store.Card, words []string) error {
	info, namespaces, err := client.New(c).Exec(ctx)
	if err != nil {
		return err
	}
	defer fds.CloseAll(namespaces)
	command := namespaceCommand(namespaces, info.ResolvConf)
	command.Argv, command.Env = words, os.Environ()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, passedOn...)
	defer signal.Stop(signals)
	p, err := nsexec.Start(command)
	var ee *exec.Error
	if errors.As(err, &ee) {
		return cannotRun(err)
	}
	if err != nil {
		return privilege.Namespaces("card "+c.Name, err)
	}
	return follow(p, signals)
}

// namespaceCommand is a command in namespaces: the network's, and the user
// namespace that is entered before it, if there are two.
func namespaceCommand(namespaces []*os.File, resolv string) nsexec.Command {
	c := nsexec.Command{Net: namespaces[0], Binds: binds(resolv, resolvConf)}
	if len(namespaces) > 1 {
		c.User = namespaces[1]
	}
	return c
}

const resolvConf = "/etc/resolv.conf"

// binds returns the bind mounts that make names resolve through the card: its resolv.conf over the
// host's, and /dev/null over the sockets of the host's resolver daemons, which would answer from
// the host's network.
func binds(resolv, host string) []nsexec.Bind {
	var list []nsexec.Bind
	if _, err := os.Lstat(host); err == nil {
		_, err := os.Stat(host) // a link that leads nowhere is covered itself
		list = append(list, nsexec.Bind{Source: resolv, Target: host, NoFollow: err != nil})
	} else {
		// There is nothing to lay it over, and the host's files are not ours to make.
		const text = "toe: exec: %v: names will not resolve; fix: sudo touch %s\n"
		fmt.Fprintf(os.Stderr, text, err, host)
	}
	for _, socket := range []string{"/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/var/run/nscd/socket"} {
		if _, err := os.Stat(socket); err == nil {
			list = append(list, nsexec.Bind{Source: "/dev/null", Target: socket})
		}
	}
	return list
}

// follow passes signals on and ends as the process does.
func follow(p *nsexec.Process, signals <-chan os.Signal) error {
	atTerminal := term.IsTerminal(int(os.Stdin.Fd()))
	for {
		select {
		case s := <-signals:
			if sig, ok := s.(syscall.Signal); ok && passOn(sig, atTerminal) {
				_ = unix.Kill(p.PID, sig)
			}
		case <-p.Done():
			ws, err := p.Wait()
			if err != nil {
				return err
			}
			if ws.Signaled() {
				return cli.Exit(cli.Signal + int(ws.Signal()))
			}
			return cli.Exit(ws.ExitStatus())
		}
	}
}

// passedOn are the signals that are the command's to act on. A stop and its
// end (Ctrl-Z, fg) reach the command by the process group.
var passedOn = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGWINCH,
}

// passOn leaves out what a terminal has sent to the command as well.
func passOn(sig syscall.Signal, atTerminal bool) bool {
	switch sig {
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGWINCH:
		return !atTerminal
	}
	return true
}
