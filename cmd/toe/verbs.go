package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/cli"
)

// downLimit is how long a card may take to go down: its own shutdown, its
// machine's, and some room.
const downLimit = 30 * time.Second

// outcome is what a verb that changes a card prints with --json.
type outcome struct {
	Name  string       `json:"name"`
	State status.State `json:"state,omitempty"` // none: the card is deleted
	Did   string       `json:"did"`             // in words, for people
}

func (o outcome) print(cmd *cobra.Command, asJSON bool) error {
	if asJSON {
		return cli.JSON(cmd.OutOrStdout(), o)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", o.Name, o.Did)
	return err
}

func downCmd() *cobra.Command {
	var asJSON, dead bool
	const short = "Take a card down and restore the host"
	cmd := cardVerb("down", short, func(cmd *cobra.Command, c *store.Card) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), downLimit)
		defer cancel()
		do := takeDown
		if dead {
			do = cleanIfDead
		}
		o, err := do(ctx, c)
		if err != nil {
			return err
		}
		return o.print(cmd, asJSON)
	})
	cmd.Long = `Down powers the card off, ends its processes, removes its interfaces, and restores what
link.default_route changed. It also cleans up after a killed supervisor.`
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&dead, "dead", false,
		"only clean up after a killed supervisor; leave a card that runs alone")
	return cmd
}

func takeDown(ctx context.Context, c *store.Card) (outcome, error) {
	err := client.New(c).Down(ctx)
	if err == nil {
		return outcome{c.Name, status.Stopped, "is down"}, nil
	}
	if !errors.Is(err, client.ErrNotRunning) {
		return outcome{}, err
	}
	if err := client.AwaitEnd(ctx, c); err != nil { // on its way up or out, without a socket
		return outcome{}, err
	}
	return cleanDead(ctx, c)
}

// cleanDead puts back what a supervisor left that is gone.
func cleanDead(ctx context.Context, c *store.Card) (outcome, error) {
	st, err := client.Status(ctx, c)
	if err != nil {
		return outcome{}, err
	}
	if err := client.CleanDead(c); err != nil {
		return outcome{}, err
	}
	if st.Killed {
		return outcome{c.Name, status.Stopped, "was dead; cleaned up after it"}, nil
	}
	return outcome{c.Name, status.Stopped, "is down already"}, nil
}

// cleanIfDead leaves a card that runs alone: after a unit that could not start
// it, because it ran already.
func cleanIfDead(ctx context.Context, c *store.Card) (outcome, error) {
	o, err := cleanDead(ctx, c)
	if !errors.Is(err, store.ErrRunning) {
		return o, err
	}
	st, err := client.Status(ctx, c)
	return outcome{c.Name, st.State, "is running, and stays up"}, err
}

func resetCmd() *cobra.Command {
	var asJSON, factory bool
	const short = "Restart a card's machine at once, as a reset button does"
	cmd := cardVerb("reset", short, func(cmd *cobra.Command, c *store.Card) error {
		if factory {
			return factoryReset(cmd, c, asJSON)
		}
		if err := client.New(c).Reset(cmd.Context()); err != nil {
			return err
		}
		did := fmt.Sprintf("is restarting; see `toe status %s`", c.Name)
		return outcome{c.Name, status.Starting, did}.print(cmd, asJSON)
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&factory, "factory", false,
		"also clear the data partition of the flash: keys, configuration and logs of the card's own; the slots stay")
	return cmd
}

// factoryReset clears the data of a card's flash, whether the card runs or not.
func factoryReset(cmd *cobra.Command, c *store.Card, asJSON bool) error {
	err := client.New(c).FactoryReset(cmd.Context(), caller())
	if err == nil {
		did := fmt.Sprintf("is restarting without its data; see `toe status %s`", c.Name)
		return outcome{c.Name, status.Starting, did}.print(cmd, asJSON)
	}
	if !errors.Is(err, client.ErrNotRunning) {
		return err
	}
	_, err = atRest(c, func(r *rom.ROM) (status.FirmwareEvent, error) { return rom.FactoryReset(r, caller()) })
	if err != nil {
		return err
	}
	return outcome{c.Name, status.Stopped, "has lost its data; the slots of its flash stay"}.print(cmd, asJSON)
}

func rmCmd() *cobra.Command {
	var force, asJSON bool
	const short = "Delete a card: its specification, keys and state"
	cmd := cardVerb("rm", short, func(cmd *cobra.Command, c *store.Card) error {
		if force {
			ctx, cancel := context.WithTimeout(cmd.Context(), downLimit)
			defer cancel()
			if _, err := takeDown(ctx, c); err != nil {
				return err
			}
		}
		if err := client.Remove(c); err != nil {
			return err
		}
		return outcome{c.Name, "", "is deleted"}.print(cmd, asJSON)
	})
	// A deletion cannot be undone: the card must be named.
	cmd.Use, cmd.Args = "rm NAME", cli.One("card", "NAME")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "take it down first if it is running")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func lsCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "ls", Short: "List the cards", Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := allStatus(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return cli.JSON(cmd.OutOrStdout(), all)
			}
			return printList(cmd, all)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: a list of what status prints")
	return cmd
}

func allStatus(ctx context.Context) ([]status.Status, error) {
	dirs, err := store.DefaultDirs()
	if err != nil {
		return nil, err
	}
	names, err := dirs.List()
	if err != nil {
		return nil, err
	}
	all := []status.Status{}
	for _, name := range names {
		c, err := dirs.Open(name)
		if err == nil {
			var st status.Status
			if st, err = client.Status(ctx, c); err == nil {
				all = append(all, st)
				continue
			}
		}
		all = append(all, status.Status{Name: name, State: status.Failed, Reasons: []string{err.Error()}})
	}
	return all, nil
}

func printList(cmd *cobra.Command, all []status.Status) error {
	if len(all) == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), "no cards; `toe up` makes one")
		return nil
	}
	w := tabwriter.NewWriter(cli.Visible{Writer: cmd.OutOrStdout()}, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tMACHINE\tARCH\tLINK\tCARD\tUPTIME")
	for _, st := range all {
		link, far, up := "-", "-", "-"
		if len(st.Link.Card) > 0 {
			far = st.Link.Card[0].String()
		}
		if st.Machine.PID != 0 {
			link, up = st.Link.Interface, seconds(st.UptimeSeconds)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", st.Name, st.State, st.Machine.Kind, st.Machine.Arch, link, far, up)
	}
	return w.Flush()
}

func statusCmd() *cobra.Command {
	var asJSON bool
	const short = "Show a card's state and its history"
	cmd := cardVerb("status", short, func(cmd *cobra.Command, c *store.Card) error {
		st, err := client.Status(cmd.Context(), c)
		if err != nil {
			return err
		}
		compareAgent(&st)
		if asJSON {
			return cli.JSON(cmd.OutOrStdout(), st)
		}
		printStatus(cmd.OutOrStdout(), st)
		printCounters(cmd.OutOrStdout(), st)
		printOffloadCounters(cmd.OutOrStdout(), st.Offload)
		for _, e := range st.History[max(len(st.History)-10, 0):] {
			fmt.Fprintf(cli.Visible{Writer: cmd.OutOrStdout()}, "  %s  %s\n", e.Time.Local().Format(time.DateTime), e.Text)
		}
		return nil
	})
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func schemaCmd() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON schema of card.yaml", Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := spec.Schema()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", data)
			return err
		},
	}
}
