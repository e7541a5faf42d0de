package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/update"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
)

func firmwareInstallCmd() *cobra.Command {
	var o update.Options
	var w whenIdle
	var quiet, asJSON bool
	cmd := &cobra.Command{
		Use:   "install [NAME] BUNDLE|URL",
		Short: "Install a signed bundle on a running card",
		Long: `Install has the card install a bundle into the slot beside the running one. The
card checks the signature against its own keyring, and what the bundle is for, its
size and its version, before a byte is written. A file of the host is offered to the
card over the link; a URL is the card's to fetch. Then the card restarts into the
new slot, and Install waits until it is healthy. Where it does not become healthy,
it goes back by itself. The host's interfaces and routes stay.

Ctrl-C ends an installation. The running slot is untouched, and the same command
again finishes.`,
		Example: "  toe firmware install edge card.raucb\n  toe firmware install edge https://updates.example/card.raucb --when-idle",
		Args:    installArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Source, o.Who = args[len(args)-1], caller()
			if err := update.CheckSource(o.Source); err != nil {
				return err
			}
			c, err := openCard(args[:len(args)-1])
			if err != nil {
				return err
			}
			if o.WhenIdle, err = w.limit(o.NoReboot); err != nil {
				return err
			}
			if !quiet {
				o.Progress = progress.New(cmd.ErrOrStderr())
			}
			r, err := update.Install(cmd.Context(), c, o)
			if err != nil {
				return err
			}
			if asJSON {
				return cli.JSON(cmd.OutOrStdout(), r)
			}
			if !r.Started {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s has the bundle in slot %s; `toe reset %[1]s` starts it\n", r.Name, r.Slot)
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s runs slot %s, version %s; no answer for %.2f s\n", r.Name, r.Slot, r.Version, r.Outage)
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.AllowDowngrade, "allow-downgrade", false, "install an older version than the running one")
	f.BoolVar(&o.NoReboot, "no-reboot", false, "install only; the card starts the new slot the next time")
	w.add(f)
	f.BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func installArgs(cmd *cobra.Command, args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return cli.Usagef("%s: which bundle? want [NAME] BUNDLE|URL, got %q", cli.Verb(cmd), args)
	}
	return nil
}
