package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
)

type applyResult struct {
	Name      string   `json:"name"`
	Changes   []string `json:"changes"`
	Restart   []string `json:"restart"` // what needs the card to be started again
	Restarted bool     `json:"restarted"`
	Diff      string   `json:"diff,omitempty"` // of the files of services, with --dry-run

	status status.Status // after a restart
}

func applyCmd() *cobra.Command {
	var file string
	var restart, dry, asJSON bool
	cmd := &cobra.Command{
		Use:   "apply [NAME] -f card.yaml",
		Short: "Give a card a new specification, while it runs where possible",
		Long: `Apply checks the file, shows what differs, and changes the running card. What
needs a restart of the card is only done with --restart; without it nothing is
changed then. The exit status is 3 where the card is degraded after a restart.

Services are changed as a transaction: the program of each accepts its new files
before anything changes, and what does not become healthy is put back.`,
		Args:              atMostOneName,
		ValidArgsFunction: completeCards,
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return cli.Usage{Err: errors.New("apply: which specification? -f card.yaml")}
			}
			res, err := apply(cmd, args, file, restart, dry)
			if err != nil {
				return err
			}
			if dry {
				return printPlan(cmd.OutOrStdout(), res, asJSON)
			}
			degraded := warnDegraded(cmd, res.status)
			if asJSON {
				return errors.Join(degraded, cli.JSON(cmd.OutOrStdout(), res))
			}
			printApplied(cmd.OutOrStdout(), res)
			return degraded
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the card's new specification")
	cmd.Flags().BoolVar(&restart, "restart", false, "start the card again if that is needed")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show what would change, with the files of services as a diff")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func apply(cmd *cobra.Command, args []string, file string, restart, dry bool) (applyResult, error) {
	want, err := spec.Load(file)
	if err != nil {
		return applyResult{}, err
	}
	if len(args) == 0 && want.Name != "" {
		args = []string{want.Name}
	}
	if name := nameArg(args); want.Name != "" && want.Name != name {
		return applyResult{}, cli.Usagef("the card is called %s on the command line and %s in %s", name, want.Name, file)
	}
	c, err := openCard(args)
	if err != nil {
		return applyResult{}, err
	}
	want = c.Fill(want)
	res := applyResult{Name: c.Name}
	res.Changes, res.Restart = spec.Diff(c.Spec, want)
	if dry {
		res.Diff, err = client.New(c).Diff(cmd.Context(), want)
		if errors.Is(err, client.ErrNotRunning) {
			res.Diff, err = diffAtRest(c, want)
		}
		return res, err
	}
	if len(res.Changes)+len(res.Restart) == 0 && len(want.Services) == 0 {
		return applyResult{Name: c.Name, Changes: []string{}, Restart: []string{}}, nil
	}
	return change(cmd.Context(), c, want, res, restart, progress.New(cmd.ErrOrStderr()))
}

func change(
	ctx context.Context, c *store.Card, want spec.Spec, res applyResult, restart bool, p *progress.Progress,
) (applyResult, error) {
	_, err := client.New(c).Status(ctx, 0)
	switch {
	case errors.Is(err, client.ErrNotRunning):
		return res, c.SetSpec(want)
	case err != nil:
		return res, err
	case len(res.Restart) == 0:
		return applyLive(ctx, c, want, res, p)
	case !restart:
		text := "nothing was changed; these need the card to be started again, which --restart does:"
		for _, r := range res.Restart {
			text += "\n  " + r
		}
		return res, errors.New(text)
	}
	down, cancel := context.WithTimeout(ctx, downLimit)
	defer cancel()
	if err := client.New(c).Down(down); err != nil {
		return res, err
	}
	before := c.Spec
	if err := c.SetSpec(want); err != nil {
		return res, err
	}
	if res.status, err = bringUp(ctx, c, p, nil); err != nil {
		return res, goBack(ctx, c, before, err, p)
	}
	res.Restarted = true
	return res, nil
}

// applyLive changes a card that runs.
func applyLive(
	ctx context.Context, c *store.Card, want spec.Spec, res applyResult, p *progress.Progress,
) (applyResult, error) {
	var stage *progress.Stage
	if len(want.Services)+len(c.Spec.Services) > 0 {
		stage = p.Stage("the card changes its services", 0)
	}
	changes, err := client.New(c).Apply(ctx, want)
	if err != nil {
		err = atLine(err, want)
		stage.Fail(err)
		return res, err
	}
	stage.Done("")
	res.Changes = changes
	return res, nil
}

// goBack gives a card that does not start with its new specification the one
// before, and starts it with that. It returns why, with what it did.
func goBack(
	ctx context.Context, c *store.Card, before spec.Spec, why error, p *progress.Progress,
) error {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), downLimit)
	defer cancel()
	if err := errors.Join(client.AwaitEnd(end, c), c.SetSpec(before)); err != nil {
		return fmt.Errorf("%w\nthe specification before could not be put back: %w", why, err)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w\n%s is down, with the specification before", why, c.Name)
	}
	if _, err := bringUp(ctx, c, p, nil); err != nil {
		return fmt.Errorf("%w\n%s does not start with the specification before either: %w", why, c.Name, err)
	}
	return fmt.Errorf("%w\n%s is up again with the specification before", why, c.Name)
}

func printPlan(w io.Writer, res applyResult, asJSON bool) error {
	if asJSON {
		return cli.JSON(w, res)
	}
	w = cli.Visible{Writer: w}
	for _, r := range res.Restart {
		fmt.Fprintf(w, "%s (needs --restart)\n", r)
	}
	for _, c := range res.Changes {
		fmt.Fprintln(w, c)
	}
	fmt.Fprint(w, res.Diff)
	if len(res.Changes)+len(res.Restart)+len(res.Diff) == 0 {
		fmt.Fprintf(w, "%s has this specification already\n", res.Name)
	}
	return nil
}

func printApplied(w io.Writer, res applyResult) {
	if len(res.Changes)+len(res.Restart) == 0 {
		fmt.Fprintf(w, "%s has this specification already\n", res.Name)
		return
	}
	for _, c := range append(res.Restart, res.Changes...) {
		fmt.Fprintln(w, c)
	}
	if res.Restarted {
		fmt.Fprintf(w, "%s was started again and is up\n", res.Name)
	}
}
