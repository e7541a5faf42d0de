package main

import (
	"errors"
	"fmt"

	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/toe-project/toe/card"
)

// misuse makes wrong arguments of every command a usageError. Called last,
// when all commands are there.
func misuse(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			return wrongArgs(c, args, check(c, args))
		}
	}
	if cmd.HasParent() && cmd.HasSubCommands() && cmd.RunE == nil && cmd.Run == nil {
		cmd.Args, cmd.RunE = cobra.ArbitraryArgs, unknownVerb
	}
	for _, c := range cmd.Commands() {
		misuse(c)
	}
}

func wrongArgs(c *cobra.Command, args []string, err error) error {
	switch {
	case err == nil:
		return nil
	case !strings.HasPrefix(err.Error(), "unknown command "): // cobra.NoArgs has one text for everything
		return usageError{fmt.Errorf("%s: %w", verbPath(c), err)}
	case c.HasSubCommands():
		return unknownVerb(c, args)
	}
	return usageError{fmt.Errorf("%s: takes no argument, and %q is one", verbPath(c), args[0])}
}

// verbPath is what stands on the command line after toe.
func verbPath(c *cobra.Command) string {
	return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
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
	hint := suggestion(args[0], names)
	if !cmd.HasParent() {
		return usageError{fmt.Errorf("there is no command %q%s", args[0], hint)}
	}
	return usageError{fmt.Errorf("%s has no command %q%s; there are %s", verbPath(cmd), args[0], hint, strings.Join(names, ", "))}
}

func flagError(cmd *cobra.Command, err error) error {
	text := err.Error()
	if strings.HasPrefix(cmd.Use, "exec") || strings.HasPrefix(cmd.Use, "ssh") {
		return usageError{fmt.Errorf("%s; the command to run comes after --, as in `%s -- CMD`", text, cmd.CommandPath())}
	}
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return unknownVerb(cmd, args) // whose flags would they be?
	}
	var value *pflag.InvalidValueError
	if errors.As(err, &value) {
		f := value.GetFlag()
		return usageError{fmt.Errorf("--%s: %q: want %s", f.Name, value.GetValue(), wantedOf(f))}
	}
	var missing *pflag.ValueRequiredError
	if errors.As(err, &missing) {
		f := missing.GetFlag()
		return usageError{fmt.Errorf("--%s: nothing follows: want %s", f.Name, wantedOf(f))}
	}
	_, flag, ok := strings.Cut(text, "unknown flag: --")
	if !ok {
		return usageError{err}
	}
	return usageError{fmt.Errorf("%s%s", text, suggestion(flag, flagNames(cmd)))}
}

// wantedOf is what a flag takes, by its type; of other types their own name.
func wantedOf(f *pflag.Flag) string {
	switch t := f.Value.Type(); t {
	case "bool":
		return "true or false"
	case "int", "int64":
		return "a whole number"
	case "uint", "uint32", "uint64":
		return "a whole number, 0 or more"
	case "duration":
		return "a time, such as 30s or 2m"
	case "string":
		return f.Usage
	default:
		return t
	}
}

func suggestion(got string, names []string) string {
	if best := card.Nearest(got, names...); best != "" {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return ""
}

// helpCmd is cobra's, but for what there is no help about: a mistake.
func helpCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show what a command does",
		ValidArgsFunction: func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			about, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, sub := range about.Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, sub.Name())
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			about, rest, err := c.Root().Find(args)
			switch {
			case err != nil:
				return usageError{fmt.Errorf("help: %w", err)}
			case len(rest) > 0 && about.HasSubCommands():
				return unknownVerb(about, rest)
			case len(rest) > 0:
				return usageError{fmt.Errorf("help: %q: %s has no commands of its own", rest[0], about.CommandPath())}
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
	}
}
