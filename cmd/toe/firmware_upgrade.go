package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/card/update"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
)

func firmwareUpgradeCmd() *cobra.Command {
	var o update.Options
	var w whenIdle
	var quiet, asJSON bool
	const short = "Upgrade a card's packages, kernel included, with a way back"
	cmd := cardVerb("upgrade", short, func(cmd *cobra.Command, c *store.Card) (err error) {
		if o.WhenIdle, err = w.limit(o.NoReboot); err != nil {
			return err
		}
		o.Who = caller()
		if !quiet {
			o.Progress = progress.New(cmd.ErrOrStderr())
		}
		u, err := update.Upgrade(cmd.Context(), c, o)
		if err != nil {
			return err
		}
		if asJSON {
			return cli.JSON(cmd.OutOrStdout(), u)
		}
		return printUpgraded(cli.Visible{Writer: cmd.OutOrStdout()}, u)
	})
	cmd.Long = `Upgrade has the card copy its running slot into the other one and upgrade the packages there, from the
mirrors that its apt has, the kernel included. Packages and files of the administrator stay. Then the card restarts
into that slot, and Upgrade waits until it is healthy. Where it does not become healthy it goes back by itself.

Ctrl-C ends an upgrade. The running slot is untouched, and the same command again finishes. On the card,
"toe-agent upgrade" does the same.`
	cmd.Example = "  toe firmware upgrade edge\n  toe firmware upgrade edge --when-idle"
	f := cmd.Flags()
	f.BoolVar(&o.NoReboot, "no-reboot", false, "upgrade only; the card starts the new slot the next time")
	w.add(f)
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printUpgraded(out cli.Visible, u *update.Upgraded) error {
	if u.Slot == "" {
		_, err := fmt.Fprintf(out, "%s: no package is newer\n", u.Name)
		return err
	}
	for _, line := range u.Changes {
		fmt.Fprintln(out, "  "+line)
	}
	if more := u.Packages - len(u.Changes); more > 0 {
		fmt.Fprintf(out, "  and %d more\n", more)
	}
	if !u.Started {
		_, err := fmt.Fprintf(out, "%s has %d upgraded packages in slot %s; `toe reset %[1]s` starts it\n", u.Name, u.Packages, u.Slot)
		return err
	}
	_, err := fmt.Fprintf(out, "%s runs slot %s with %d upgraded packages; no answer for %.2f s\n", u.Name, u.Slot, u.Packages, u.Outage)
	return err
}

// whenIdle are the flags about the moment of a restart.
type whenIdle struct {
	wait bool
	max  time.Duration
}

func (w *whenIdle) add(f interface {
	BoolVar(*bool, string, bool, string)
	DurationVar(*time.Duration, string, time.Duration, string)
}) {
	f.BoolVar(&w.wait, "when-idle", false, "restart the card in a moment without traffic on the link")
	f.DurationVar(&w.max, "idle-limit", time.Hour, "how long to wait for that moment")
}

// limit is how long to wait; 0 does not wait.
func (w *whenIdle) limit(noReboot bool) (time.Duration, error) {
	switch {
	case !w.wait:
		return 0, nil
	case noReboot:
		return 0, cli.Usagef("--when-idle and --no-reboot are mutually exclusive")
	case w.max <= 0:
		return 0, cli.Usagef("--idle-limit %s: want more than 0", w.max)
	}
	return w.max, nil
}
