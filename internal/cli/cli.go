// Package cli is what the command lines of this project's programs share: exit
// statuses, errors of use, help, man pages, and output for people and programs.
// Errors of use are typed. No message of cobra or pflag decides anything.
package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit statuses. A command that runs another program passes on that program's.
const (
	Failure = 1
	Misuse  = 2
	Signal  = 128 // plus the signal's number
)

// Usage is an error in what was typed. The program exits with Misuse and points
// to the command's help.
type Usage struct{ Err error }

func (e Usage) Error() string { return e.Err.Error() }
func (e Usage) Unwrap() error { return e.Err }

// Usagef formats a Usage error.
func Usagef(format string, args ...any) error { return Usage{fmt.Errorf(format, args...)} }

// Exit is an error that ends the program with this status and prints nothing.
type Exit int

func (e Exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Main runs the program's own command line, canceled by SIGINT, SIGTERM and
// SIGHUP, and returns the exit status.
func Main(root *cobra.Command) int {
	signals := []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	return Execute(ctx, root, os.Args[1:])
}

// Execute runs one command line and returns the exit status. cobra's own
// commands capture root's output when they are made, which is now.
func Execute(ctx context.Context, root *cobra.Command, args []string) int {
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetVersionTemplate(root.Name() + " {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(helpCmd())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(args...)
	ownArgs(root)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	return report(cmd, err)
}

// report prints an error and returns the exit status for it. The error may
// contain words of a card or of a file.
func report(cmd *cobra.Command, err error) int {
	out, name := Visible{cmd.ErrOrStderr()}, cmd.Root().Name()
	var exit Exit
	var usage Usage
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case errors.Is(err, context.Canceled):
		fmt.Fprintf(out, "%s: interrupted\n", name)
		return Signal + int(syscall.SIGINT)
	case errors.As(err, &usage):
		fmt.Fprintf(out, "%s: %v\nSee `%s --help`.\n", name, err, cmd.CommandPath())
		return Misuse
	}
	fmt.Fprintf(out, "%s: %v\n", name, err)
	return Failure
}
