// Command toe is the host's side of a card: an independent Linux node that
// this machine is joined to by raw IP packets.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

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
	return execute(ctx, rootCmd(), args)
}

// execute is a whole command line. cobra's own commands write to what is
// root's output when they are made, which is now.
func execute(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetHelpCommand(helpCmd())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	misuse(root)
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
	return root
}
