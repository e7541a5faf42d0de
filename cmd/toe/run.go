package main

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"sync/atomic"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/supervisor"
	"github.com/toe-project/toe/hostnet/holder"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/internal/sandbox"
)

// runCmd is the supervisor: what `toe up` starts in the background and
// toe@.service in the foreground.
func runCmd() *cobra.Command {
	var readyFD, aliveFD int
	const short = "Run a card in the foreground, as its supervisor"
	cmd := cardVerb("run", short, func(cmd *cobra.Command, c *store.Card) error {
		out := newRunLog(os.Stderr, c.Paths.Log())
		logger := log.New(out, "", log.LstdFlags|log.Lmicroseconds)
		if err := sandbox.CloseInherited(readyFD, aliveFD); err != nil {
			return err
		}
		sandbox.SetName("toe: run " + c.Name)
		ctx, stop := context.WithCancel(cmd.Context())
		defer stop()
		var orphan atomic.Bool // the process that made the card is gone
		if aliveFD >= 0 {
			go untilClosed(aliveFD, func() { orphan.Store(true); stop() })
		}
		parts := realParts(c, logger, progress.New(out))
		parts.Ready = notifier()
		s := supervisor.New(c, parts, logger)
		err := s.Run(ctx, func() { signalReady(readyFD) })
		if c.IsTemporary() && orphan.Load() {
			// The maker may have been killed. One that lives removes the card
			// itself, after it has read why the card ended.
			err = errors.Join(err, client.Remove(c))
		}
		if errors.Is(err, context.Canceled) && errors.Is(cmd.Context().Err(), context.Canceled) {
			return nil // asked to end, and ended
		}
		return err
	})
	cmd.Long = `Run starts the card, keeps it running, and takes everything down on SIGTERM
or SIGINT. It is what toe@NAME.service runs. The card must exist; ` + "`toe up`" + ` makes it.`
	cmd.Flags().IntVar(&readyFD, "ready-fd", -1,
		"write a line to this descriptor when the supervisor can be asked")
	cmd.Flags().IntVar(&aliveFD, "alive-fd", -1, "end when this descriptor does")
	_ = cmd.Flags().MarkHidden("ready-fd")
	_ = cmd.Flags().MarkHidden("alive-fd")
	return cmd
}

// notifier tells a service manager that the card is ready (sd_notify(3)). The
// children do not inherit the name of that socket.
func notifier() func() {
	path := os.Getenv("NOTIFY_SOCKET")
	_ = os.Unsetenv("NOTIFY_SOCKET")
	return func() { notify(path) }
}

func notify(path string) {
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:] // abstract
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return // no listener: the card is ready all the same
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("READY=1"))
}

// signalReady says that the supervisor's socket can be asked.
func signalReady(fd int) {
	if fd >= 0 {
		f := os.NewFile(uintptr(fd), "ready")
		_, _ = f.WriteString("ready\n")
		f.Close()
	}
}

// untilClosed calls stop when the other end is closed.
func untilClosed(fd int, stop func()) {
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "alive")
	_, _ = io.Copy(io.Discard, f)
	stop()
}

// holderCmd keeps the namespace of toe exec; the supervisor starts it.
func holderCmd() *cobra.Command {
	return &cobra.Command{
		Use: holder.Verb, Hidden: true, Args: cli.NoArgs,
		RunE: func(*cobra.Command, []string) error { return holder.Main() },
	}
}
