package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/cli"
)

const sshPort = 22

// exitTimeout is the status after --timeout, as that of timeout(1).
const exitTimeout = 124

func sshCmd() *cobra.Command {
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "ssh [NAME] [-- CMD…]",
		Short: "Log in to a card, or run a command on it",
		Long: `Ssh logs in to the card over its link, with the key made for that and
the host key that was given to the card. It asks for no confirmation. The exit
status is CMD's, and 124 where --timeout ended it.`,
		Example:           "  toe ssh\n  toe ssh edge -- ip route\n  toe ssh --timeout 30s -- ping -c 3 192.0.2.1",
		Annotations:       map[string]string{cli.RunsCommand: ""},
		ValidArgsFunction: completeCards,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, words, err := splitDash(cmd, args)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("timeout") && limit <= 0 {
				return cli.Usagef("--timeout %s: want more than 0", limit)
			}
			c, err := openCard(names)
			if err != nil {
				return err
			}
			if limit == 0 {
				return runSSH(cmd.Context(), c, words)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			err = runSSH(ctx, c, words)
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				fmt.Fprintf(os.Stderr, "toe: card %s: not done after %s\n", c.Name, limit)
				return cli.Exit(exitTimeout)
			}
			return err
		},
	}
	cmd.Flags().DurationVar(&limit, "timeout", 0,
		"end the command after this time, such as 30s (default never)")
	return cmd
}

// splitDash splits "[NAME] -- CMD…".
func splitDash(cmd *cobra.Command, args []string) (names, words []string, err error) {
	at := cmd.ArgsLenAtDash()
	if at < 0 {
		at = len(args)
	}
	if at > 1 {
		return nil, nil, cli.Usagef("%s: %q: the command comes after --, as in `%s %s -- %s`",
			cli.Verb(cmd), args[1], cmd.CommandPath(), args[0], strings.Join(args[1:at], " "))
	}
	return args[:at], args[at:], nil
}

func runSSH(ctx context.Context, c *store.Card, words []string) error {
	return runSSHTo(ctx, c, words, os.Stdin, os.Stdout, os.Stderr)
}

func runSSHTo(ctx context.Context, c *store.Card, words []string, stdin io.Reader, stdout, stderr io.Writer) error {
	client, err := sshClient(ctx, c)
	if err != nil {
		return err
	}
	defer client.Close()
	defer context.AfterFunc(ctx, func() { client.Close() })()
	session, err := client.NewSession()
	if err != nil {
		return fmt.Errorf("card %s: session: %w", c.Name, err)
	}
	defer session.Close()
	session.Stdout, session.Stderr = stdout, stderr
	in, err := session.StdinPipe()
	if err != nil {
		return err
	}
	restore, err := terminal(session, len(words) == 0)
	if err != nil {
		return err
	}
	defer restore()
	if len(words) == 0 {
		err = session.Shell()
	} else {
		err = session.Start(quote(words))
	}
	if err != nil {
		return fmt.Errorf("card %s: %w", c.Name, err)
	}
	go func() {
		_, _ = io.Copy(in, stdin)
		in.Close()
	}()
	return sshExit(c, session.Wait())
}

// quote makes one command line of words, for the shell on the card. A single
// word is passed as it is, so that a whole line of shell can be given.
func quote(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	out := make([]string, len(words))
	for i, w := range words {
		if w != "" && !strings.ContainsAny(w, " \t\n'\"\\$`!*?[](){}<>|&;#~") {
			out[i] = w
			continue
		}
		out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(out, " ")
}

func sshClient(ctx context.Context, c *store.Card) (*ssh.Client, error) {
	login, err := c.LoginKey()
	if err != nil {
		return nil, err
	}
	host, err := c.HostKey()
	if err != nil {
		return nil, err
	}
	conn, err := client.New(c).Dial(ctx, sshPort)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	config := &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(login)}, HostKeyAlgorithms: []string{host.Type()},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if !bytes.Equal(key.Marshal(), host.Marshal()) {
				return errors.New("its host key is not this card's")
			}
			return nil
		},
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	sc, channels, requests, err := ssh.NewClientConn(conn, c.Name, config)
	if err != nil {
		conn.Close()
		if st, serr := client.Status(ctx, c); serr == nil && st.Firmware.ZeroTrust {
			return nil, fmt.Errorf("card %s has zero_trust: this host's key may not log in; "+
				"want an administrator's own: `ssh root@%s`", c.Name, firstCard(st))
		}
		return nil, fmt.Errorf("card %s: ssh: %w", c.Name, err)
	}
	_ = conn.SetDeadline(time.Time{})
	return ssh.NewClient(sc, channels, requests), nil
}

// firstCard is an address of the card over the link.
func firstCard(st status.Status) string {
	if len(st.Link.Card) == 0 {
		return "CARD"
	}
	return st.Link.Card[0].String()
}

// terminal requests a terminal on the card for a shell where there is one here,
// and puts ours into raw mode.
func terminal(session *ssh.Session, shell bool) (restore func(), err error) {
	in, out := int(os.Stdin.Fd()), int(os.Stdout.Fd())
	if !shell || !term.IsTerminal(in) || !term.IsTerminal(out) {
		return func() {}, nil
	}
	cols, rows, err := term.GetSize(out)
	if err != nil {
		cols, rows = 80, 24
	}
	name := os.Getenv("TERM")
	if name == "" {
		name = "vt100"
	}
	if err := session.RequestPty(name, rows, cols, ssh.TerminalModes{}); err != nil {
		return nil, fmt.Errorf("terminal on the card: %w", err)
	}
	old, err := term.MakeRaw(in)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	go func() {
		for range resized {
			if cols, rows, err := term.GetSize(out); err == nil {
				_ = session.WindowChange(rows, cols)
			}
		}
	}()
	return func() {
		signal.Stop(resized)
		close(resized)
		_ = term.Restore(in, old)
	}, nil
}

// sshExit turns the end of the session into toe's.
func sshExit(c *store.Card, err error) error {
	var exit *ssh.ExitError
	var missing *ssh.ExitMissingError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		if exit.Signal() != "" {
			fmt.Fprintf(cli.Visible{Writer: os.Stderr}, "toe: the command died of signal %s\n", exit.Signal())
		}
		return cli.Exit(exit.ExitStatus())
	case errors.As(err, &missing):
		return fmt.Errorf("card %s: the connection broke; see `toe status %s`", c.Name, c.Name)
	}
	return fmt.Errorf("card %s: %w", c.Name, err)
}
