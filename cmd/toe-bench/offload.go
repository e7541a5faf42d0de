package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/bench"
	"github.com/toe-project/toe/internal/cli"
)

type offloadFlags struct {
	common
	full     bool
	machines []string
}

func offloadCmd(toe *string) *cobra.Command {
	var f offloadFlags
	c := &cobra.Command{
		Use:   "offload",
		Short: "Measure what endpoint mode costs the host, beside conventional devices",
		Long: `Offload measures the host's CPU seconds per GiB, and throughput, when the card
terminates the host's connections, beside a card that only forwards and beside
conventional network devices with and without TSO: bare, with a firewall of 100
rules, and with WireGuard. It works in network namespaces that it makes, and
leaves nothing behind. It needs root. docs/benchmarks.md says how each figure is
made.`,
		Example: `  toe-bench offload
  toe-bench offload --only plain --machine uml --rounds 5
  toe-bench offload --json --chart offload.svg
  toe-bench offload --format bench > a.txt; benchstat -col /by a.txt`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.toe = *toe
			return runOffload(cmd, &f)
		},
	}
	f.add(c, 3, 1.5, bench.OffloadParts())
	c.Flags().BoolVar(&f.full, "full", false, "also 10,000 idle connections")
	c.Flags().StringSliceVar(&f.machines, "machine", []string{"auto", "tcg"},
		"kinds of the card, one after the other: auto, kvm, uml or tcg")
	return c
}

func runOffload(cmd *cobra.Command, f *offloadFlags) error {
	if err := f.check(bench.OffloadParts()); err != nil {
		return err
	}
	w, err := f.world(cmd)
	if err != nil {
		return err
	}
	if !isInside() {
		return inside(cmd, nil)
	}
	o := bench.OffloadOptions{Options: f.options(cmd, w), Machines: f.machines, Full: f.full}
	if f.quick && len(f.machines) > 0 {
		o.Machines = f.machines[:1]
	}
	rep, err := bench.RunOffload(cmd.Context(), o)
	if errors.Is(err, context.Canceled) {
		return err
	}
	return errors.Join(err, f.show(cmd, rep, rep.PrintOffload, rep.OffloadChart))
}

// partCmd is a part of the offload benchmark in another namespace or on a card.
func partCmd() *cobra.Command {
	return &cobra.Command{
		Use:    bench.OffloadPartVerb + " PART",
		Hidden: true,
		Args:   cli.One("part", "PART"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return bench.OffloadPart(args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
