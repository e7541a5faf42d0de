package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/update"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
)

func firmwareUpdateCmd() *cobra.Command {
	var o update.Options
	var w whenIdle
	var quiet, asJSON bool
	const short = "Start a running micro card with the newest image of the cache"
	cmd := cardVerb("update", short, func(cmd *cobra.Command, c *store.Card) (err error) {
		if o.WhenIdle, err = w.limit(false); err != nil {
			return err
		}
		o.Who = caller()
		if !quiet {
			o.Progress = progress.New(cmd.ErrOrStderr())
		}
		r, err := update.Renew(cmd.Context(), c, o)
		if err != nil {
			return err
		}
		if asJSON {
			return cli.JSON(cmd.OutOrStdout(), r)
		}
		if !r.Started {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s runs version %s already\n", r.Name, r.Version)
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s runs version %s; no answer for %.2f s\n", r.Name, r.Version, r.Outage)
		return err
	})
	cmd.Long = `Update restarts a card without a flash with the newest image of the cache, which "toe
firmware build" makes. Its links, addresses and routes stay. Update waits until the
card is as healthy as it was before, and prints the longest time without an answer.
Where it does not become so, the image before is started again, and "toe firmware
history" says why. A card of edition debian has slots: "toe firmware install".`
	f := cmd.Flags()
	w.add(f)
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
