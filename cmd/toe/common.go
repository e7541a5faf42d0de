package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/toe-project/toe/card"
	"github.com/toe-project/toe/internal/tail"
)

// buildVersion is set by the linker (Makefile).
var buildVersion string

func version() string {
	if buildVersion != "" {
		return buildVersion
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func flagNames(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	return names
}

// nameArg is the card that args mean.
func nameArg(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return card.DefaultName
}

// openCard opens the card that args mean.
func openCard(args []string) (*card.Card, error) {
	name := nameArg(args)
	if err := card.CheckName(name); err != nil {
		return nil, usageError{err}
	}
	dirs, err := card.DefaultDirs()
	if err != nil {
		return nil, err
	}
	c, err := dirs.Open(name)
	if err == nil {
		return c, nil
	}
	names, _ := dirs.List()
	if hint := suggestion(name, names); hint != "" {
		err = fmt.Errorf("%w%s", err, hint)
	}
	return nil, err
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// visible is a writer for text that a card had a hand in, its addresses and
// reasons too: nothing in it reaches the terminal as a control sequence.
type visible struct{ io.Writer }

func (v visible) Write(b []byte) (int, error) {
	_, err := io.WriteString(v.Writer, tail.Visible(string(b), "\n\t"))
	return len(b), err
}

// completeCards offers the names of the cards that exist.
func completeCards(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	dirs, err := card.DefaultDirs()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names, _ := dirs.List()
	return names, cobra.ShellCompDirectiveNoFileComp
}

// oneName is for a command that must be told which card.
var oneName = oneOf("card", "NAME")

// oneOf is for a command that must be told one thing, and which.
func oneOf(thing, word string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return fmt.Errorf("which %s? one %s, not %d", thing, word, len(args))
		}
		return nil
	}
}

// atMostOneName is for a command that knows which card is meant when nothing
// is said.
func atMostOneName(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return fmt.Errorf("which card? one NAME at most, not %q", args)
	}
	return nil
}

// cardVerb is a command that takes the name of one card.
func cardVerb(use, short string, run func(cmd *cobra.Command, c *card.Card) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " [NAME]", Short: short, Args: atMostOneName, ValidArgsFunction: completeCards,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := openCard(args)
			if err != nil {
				return err
			}
			return run(cmd, c)
		},
	}
}
