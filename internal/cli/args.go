package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/internal/suggest"
)

// NoArgs is for a command without arguments.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("%s: unexpected argument %q: want none", Verb(cmd), args[0])
	}
	return nil
}

// One is for a command that takes exactly one thing, shown as word in its usage.
func One(thing, word string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return Usagef("%s: which %s? want one %s, got %d", Verb(cmd), thing, word, len(args))
		}
		return nil
	}
}

// AtMostOne is for a command that has a default for the thing.
func AtMostOne(thing, word string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return Usagef("%s: which %s? want at most one %s, got %q", Verb(cmd), thing, word, args)
		}
		return nil
	}
}

// Verb is the command as typed, without the program's name.
func Verb(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

// ownArgs gives every command of the tree a check of its arguments that returns
// Usage: also to those that cobra adds, whose arguments are none.
func ownArgs(cmd *cobra.Command) {
	switch {
	case cmd.HasSubCommands():
		cmd.Args = noSuchCommand
		if cmd.RunE == nil && cmd.Run == nil {
			cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	case cmd.HasParent() && cmd.Parent().Name() == "completion":
		cmd.Args = NoArgs
	}
	for _, c := range cmd.Commands() {
		ownArgs(c)
	}
}

// noSuchCommand refuses the first argument of a command that has subcommands:
// cobra has found no subcommand of that name.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	hint := suggest.DidYouMean(args[0], names...)
	if !cmd.HasParent() {
		return Usagef("no command %q%s", args[0], hint)
	}
	list := strings.Join(names, ", ")
	return Usagef("%s: no command %q%s; want one of %s", Verb(cmd), args[0], hint, list)
}
