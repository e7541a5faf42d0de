package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/cli"
)

func eventsCmd() *cobra.Command {
	var follow, asJSON bool
	const short = "Show what happened to a card, and what happens"
	cmd := cardVerb("events", short, func(cmd *cobra.Command, c *store.Card) error {
		out := cli.Visible{Writer: cmd.OutOrStdout()}
		var broken error // a reader that is gone ends the command
		show := func(e status.EventLine) {
			if e.Missed > 0 {
				fmt.Fprintf(out, "… %d events missed …\n", e.Missed)
			}
			_, broken = fmt.Fprintf(out, "%s  %s\n", e.Time.Local().Format(time.DateTime), e.Text)
		}
		if asJSON {
			enc := json.NewEncoder(cmd.OutOrStdout())
			show = func(e status.EventLine) { broken = enc.Encode(e) }
		}
		err := client.Events(cmd.Context(), c, follow, show)
		if cmd.Context().Err() != nil && follow {
			return nil // Ctrl-C is how a follower leaves
		}
		return errors.Join(err, broken)
	})
	cmd.Long = `Events shows the card's history: its last 32 events, the oldest first, also of a card that is
down. With -f it goes on with what comes, and ends when the card goes down. A reader that is
more than 128 events behind misses some, and is told how many.`
	cmd.Example = "  toe events\n  toe events edge -f --json | jq -r .text"
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "follow the events until the card goes down")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line")
	return cmd
}
