package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/suggest"
)

// nameArg is the card that args name, or the default one.
func nameArg(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return spec.DefaultName
}

// openCard opens the card that args name, or the default one.
func openCard(args []string) (*store.Card, error) {
	name := nameArg(args)
	if err := spec.CheckName(name); err != nil {
		return nil, cli.Usage{Err: err}
	}
	dirs, err := store.DefaultDirs()
	if err != nil {
		return nil, err
	}
	c, err := dirs.Open(name)
	if err == nil {
		return c, nil
	}
	names, _ := dirs.List()
	if hint := suggest.DidYouMean(name, names...); hint != "" {
		err = fmt.Errorf("%w%s", err, hint)
	}
	return nil, err
}

// completeCards offers the names of the cards that exist.
func completeCards(_ *cobra.Command, args []string, _ string) (
	[]string, cobra.ShellCompDirective,
) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	dirs, err := store.DefaultDirs()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names, _ := dirs.List()
	return names, cobra.ShellCompDirectiveNoFileComp
}

// atMostOneName is for a command that means the default card when none is
// named.
var atMostOneName = cli.AtMostOne("card", "NAME")

// cardVerb is a command that takes the name of one card.
func cardVerb(use, short string, run func(*cobra.Command, *store.Card) error) *cobra.Command {
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
