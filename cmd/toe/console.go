package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/store"
)

// leaveKey is Ctrl-].
const leaveKey = 0x1d

func consoleCmd() *cobra.Command {
	const short = "Join a card's serial console; Ctrl-] leaves"
	cmd := cardVerb("console", short, func(cmd *cobra.Command, c *store.Card) error {
		conn, err := client.Console(cmd.Context(), c)
		if err != nil {
			return err
		}
		defer conn.Close()
		return joinConsole(cmd.Context(), conn, c.Name)
	})
	cmd.Long = `Console joins this terminal to the card's serial console. Several terminals may be
joined at once. Ctrl-] leaves and does not reach the card.`
	return cmd
}

func joinConsole(ctx context.Context, conn net.Conn, name string) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if fd := int(os.Stdin.Fd()); term.IsTerminal(fd) {
		fmt.Fprintf(os.Stderr, "console of %s; Ctrl-] leaves\r\n", name)
		old, err := term.MakeRaw(fd)
		if err != nil {
			return fmt.Errorf("terminal: %w", err)
		}
		defer func() {
			_ = term.Restore(fd, old)
			fmt.Fprintln(os.Stderr)
		}()
	}
	left := make(chan struct{})
	go func() {
		if typeOn(conn, os.Stdin) {
			close(left)
			conn.Close()
		}
	}()
	_, err := io.Copy(os.Stdout, conn)
	select {
	case <-left:
		return nil
	default:
	}
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("card %s went down", name)
	}
	return err
}

// typeOn copies what is typed until Ctrl-], and says whether that came. When
// the input just ends, the output is still worth watching.
func typeOn(w io.Writer, r io.Reader) (left bool) {
	buf := make([]byte, 1024)
	for {
		n, err := r.Read(buf)
		for i, b := range buf[:n] {
			if b == leaveKey {
				_, _ = w.Write(buf[:i])
				return true
			}
		}
		if _, werr := w.Write(buf[:n]); werr != nil || err != nil {
			return false
		}
	}
}
