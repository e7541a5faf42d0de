// Command toe is the host's side of a card: an independent Linux node that
// this machine is joined to by raw IP packets.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card"
	"github.com/toe-project/toe/internal/sandbox"
)

// The exit statuses of toe, but for exec and ssh, which pass on their command's.
const (
	exitFailure = 1
	exitMisuse  = 2
	exitSignal  = 128 // plus the signal's number
)

// usageError is a command that was typed wrong.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitError ends toe with a status and says no more.
type exitError struct{ status int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

func main() {
	sandbox.Main() // does not return in a process that becomes a machine's cell
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	root := rootCmd()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	return report(cmd, err)
}

// report prints an error and gives the exit status for it. The error may have
// words of the card in it, or of a file.
func report(cmd *cobra.Command, err error) int {
	var exit exitError
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.status
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(cmd.ErrOrStderr(), "toe: interrupted")
		return exitSignal + int(syscall.SIGINT)
	case errors.As(err, &usage):
		fmt.Fprintf(visible{cmd.ErrOrStderr()}, "toe: %v\n`%s --help` shows what can be said.\n", err, cmd.CommandPath())
		return exitMisuse
	}
	fmt.Fprintf(visible{cmd.ErrOrStderr()}, "toe: %v\n", err)
	return exitFailure
}

func rootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "toe",
		Short: "Run a card: an independent Linux node that does this host's networking",
		Long: `A card is a small computer beside this host, with network ports of its own.
toe runs it as a virtual machine and joins it to the host by raw IP packets
with an MTU of 65535. Without a NAME, commands mean the card called card0.`,
		Example: `  toe up                      create and start card0
  toe ssh -- uname -a         run a command on the card
  toe exec -- curl URL        run a command here, with the card as its only network
  toe down                    take it down again`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE:          unknownVerb,
		Version:       version(),
	}
	root.SetVersionTemplate("toe {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(upCmd(), downCmd(), resetCmd(), rmCmd(), lsCmd(), statusCmd(), consoleCmd(), sshCmd(), logsCmd(),
		execCmd(), applyCmd(), firmwareCmd(), doctorCmd(), benchCmd(), benchPartCmd(), schemaCmd(), pumpCmd(), pumpWorkerCmd(),
		runCmd(), holderCmd(), manCmd(), versionCmd())
	misuse(root)
	return root
}

// unknownVerb is for what is no command.
func unknownVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	return usageError{fmt.Errorf("%s has no command %q%s", cmd.CommandPath(), args[0], suggestion(args[0], names))}
}

func flagError(cmd *cobra.Command, err error) error {
	text := err.Error()
	if strings.HasPrefix(cmd.Use, "exec") || strings.HasPrefix(cmd.Use, "ssh") {
		return usageError{fmt.Errorf("%s; the command to run comes after --, as in `%s -- CMD`", text, cmd.CommandPath())}
	}
	_, flag, ok := strings.Cut(text, "unknown flag: --")
	if !ok {
		return usageError{err}
	}
	return usageError{fmt.Errorf("%s%s", text, suggestion(flag, flagNames(cmd)))}
}

func suggestion(got string, names []string) string {
	if best := card.Nearest(got, names...); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return ""
}

// misuse makes wrong arguments of every command a usageError.
func misuse(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{fmt.Errorf("%s: %w", c.CommandPath(), err)}
			}
			return nil
		}
	}
	if cmd.HasParent() && cmd.HasSubCommands() && cmd.RunE == nil && cmd.Run == nil {
		cmd.Args, cmd.RunE = cobra.ArbitraryArgs, unknownVerb
	}
	for _, c := range cmd.Commands() {
		misuse(c)
	}
}
