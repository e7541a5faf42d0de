package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// helpCmd is cobra's help command, except that a topic that does not exist is
// an error of use.
func helpCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "help [COMMAND]",
		Short:             "Show what a command does",
		ValidArgsFunction: completeHelp,
		RunE: func(c *cobra.Command, args []string) error {
			about, rest, err := c.Root().Find(args)
			switch {
			case err != nil:
				return Usagef("help: %w", err)
			case len(rest) > 0 && about.HasSubCommands():
				return noSuchCommand(about, rest)
			case len(rest) > 0:
				return Usagef("help: %q: %s has no subcommands", rest[0], about.CommandPath())
			}
			about.InitDefaultHelpFlag()
			about.InitDefaultVersionFlag()
			return about.Help()
		},
	}
}

func completeHelp(c *cobra.Command, args []string, _ string) (
	[]string, cobra.ShellCompDirective,
) {
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
}

// ManCmd is the hidden command that writes the program's man pages.
func ManCmd() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the man pages into a folder", Hidden: true,
		Args: One("folder", "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			name := root.Name()
			err := doc.GenManTree(root, &doc.GenManHeader{
				Title: strings.ToUpper(name), Section: "1",
				Source: name + " " + root.Version, Manual: "toe",
			}, args[0])
			if err != nil {
				return fmt.Errorf("man pages in %s: %w", args[0], err)
			}
			return nil
		},
	}
}
