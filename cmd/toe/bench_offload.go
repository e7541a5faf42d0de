package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/bench"
	"github.com/toe-project/toe/card"
	"github.com/toe-project/toe/internal/progress"
)

type offloadFlags struct {
	asJSON, quick, quiet, full bool
	rounds                     int
	seconds                    float64
	only, machines             []string
	chart                      string
}

func benchOffloadCmd() *cobra.Command {
	var f offloadFlags
	c := &cobra.Command{
		Use:   "offload",
		Short: "Measure what endpoint mode costs the host, beside conventional devices",
		Long: `Offload measures the host's CPU seconds by the GiB, and throughput, when the card
ends the host's connections, beside a card that only forwards and beside
conventional network devices with and without TSO: bare, with a firewall of 100
rules, and with WireGuard. It works in network namespaces that it makes, and
leaves nothing behind. Root only. docs/benchmarks.md says how each figure is
made.`,
		Example: "  toe bench offload\n  toe bench offload --only plain --machine uml --rounds 5\n  toe bench offload --json --chart offload.svg",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runBenchOffload(cmd, f) },
	}
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&f.quick, "quick", false, "one short round with the first kind of card")
	c.Flags().BoolVar(&f.full, "full", false, "10,000 idle connections, too")
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	c.Flags().IntVar(&f.rounds, "rounds", 3, "rounds of each measurement; figures are medians")
	c.Flags().Float64Var(&f.seconds, "seconds", 1.5, "length of one round of each kind of traffic")
	c.Flags().StringSliceVar(&f.only, "only", nil, "measure only these: "+strings.Join(bench.OffloadParts(), ", "))
	c.Flags().StringSliceVar(&f.machines, "machine", []string{"auto", "tcg"}, "kinds of the card, one after the other: auto, kvm, uml or tcg")
	c.Flags().StringVar(&f.chart, "chart", "", "write a chart to this file (SVG)")
	return c
}

func runBenchOffload(cmd *cobra.Command, f offloadFlags) error {
	if os.Getuid() != 0 {
		return errors.New("bench makes network interfaces and namespaces: run it as root")
	}
	dirs, err := card.DefaultDirs()
	if err != nil {
		return err
	}
	if os.Getenv(insideNamespace) == "" {
		return benchInside(cmd, nil)
	}
	o := bench.OffloadOptions{
		Options: bench.Options{
			Rounds: f.rounds, Length: time.Duration(f.seconds * float64(time.Second)), Quick: f.quick, Only: f.only,
			Program: "/proc/self/exe", Cache: dirs.Cache,
		},
		Machines: f.machines, Full: f.full,
	}
	if f.quick && len(f.machines) > 0 {
		o.Rounds, o.Length, o.Machines = 1, time.Second, f.machines[:1]
	}
	if !f.quiet {
		o.Progress = progress.New(cmd.ErrOrStderr())
	}
	rep, err := bench.RunOffload(cmd.Context(), o)
	if errors.Is(err, context.Canceled) {
		return err
	}
	return errors.Join(err, showOffload(cmd, f, rep))
}

func showOffload(cmd *cobra.Command, f offloadFlags, rep bench.Report) error {
	if f.chart != "" {
		if err := writeChart(f.chart, rep.OffloadChart); err != nil {
			return err
		}
	}
	if f.asJSON {
		return printJSON(cmd.OutOrStdout(), rep)
	}
	rep.PrintOffload(cmd.OutOrStdout())
	return nil
}

// benchPartCmd is a part of toe bench offload: it starts it in a namespace or
// on the card, nobody else does.
func benchPartCmd() *cobra.Command {
	return &cobra.Command{
		Use:    bench.OffloadPartVerb + " PART",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return bench.OffloadPart(args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
