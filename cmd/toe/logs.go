package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/tail"
)

func logsCmd() *cobra.Command {
	var follow, asJSON bool
	var last uint32
	const short = "Show the card's log: its agent's and its kernel's"
	cmd := cardVerb("logs", short, func(cmd *cobra.Command, c *store.Card) error {
		out := cmd.OutOrStdout()
		show := func(l status.LogLine) {
			if l.Missed > 0 {
				fmt.Fprintf(out, "… %d lines missed …\n", l.Missed)
			}
			fmt.Fprintf(out, "%s %-6s %s\n", l.Time.Local().Format("15:04:05.000"), tail.Visible(l.Source, ""), tail.Visible(l.Text, "\t"))
		}
		if asJSON {
			enc := json.NewEncoder(out)
			show = func(l status.LogLine) { _ = enc.Encode(l) }
		}
		err := client.New(c).Logs(cmd.Context(), follow, last, show)
		if errors.Is(err, client.ErrNotRunning) {
			if text := c.Paths.ConsoleTail(); text != "" && !asJSON {
				fmt.Fprintf(out, "%s\n", text)
				return fmt.Errorf("%w; the above is the end of its last console", err)
			}
		}
		return err
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "follow the log")
	cmd.Flags().Uint32VarP(&last, "tail", "n", 0,
		"only this many of the newest lines (0: all that the card keeps)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}
