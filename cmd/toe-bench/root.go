package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/bench"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/internal/suggest"
)

type linkFlags struct {
	common
	cards   int
	machine string
}

func rootCmd() *cobra.Command {
	var f linkFlags
	c := &cobra.Command{
		Use:   "toe-bench",
		Short: "Measure the link beside what it competes with, in one run",
		Long: `toe-bench measures the pump alone and a card of its own over its link, beside bare
system calls, and the same card on QEMU's own tap and on passt. It works in
network namespaces that it makes, beside the cards that run, and leaves nothing
behind. It needs root. A whole run takes about ten minutes, with --quick two.
docs/benchmarks.md says how each figure is made.`,
		Example: `  toe-bench
  toe-bench --only pump --rounds 5
  toe-bench --json > bench.json
  toe-bench report bench.json --chart bench.svg
  toe-bench --format bench > a.txt; benchstat -col /by a.txt`,
		Version: cli.Version(buildVersion),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runLink(cmd, &f) },
	}
	f.add(c, 5, 2, bench.Parts())
	c.Flags().IntVar(&f.cards, "cards", 0,
		"how many cards to start at once (default 20, with tcg or --quick 4)")
	c.Flags().StringVar(&f.machine, "machine", "auto", "kind of the card: auto, kvm, uml or tcg")
	c.PersistentFlags().StringVar(&f.toe, "toe", "",
		"the toe program that starts cards (default beside this program, else on PATH)")
	c.AddCommand(offloadCmd(&f.toe), reportCmd(), partCmd(), cli.ManCmd(), cli.VersionCmd())
	return c
}

// check refuses values that no measurement works with.
func (f *linkFlags) check() error {
	if f.cards < 0 {
		return cli.Usagef("--cards %d: want at least 1, or 0 for the default", f.cards)
	}
	return f.common.check(bench.Parts())
}

func runLink(cmd *cobra.Command, f *linkFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	w, err := f.world(cmd)
	if err != nil {
		return err
	}
	if !isInside() {
		return inside(cmd, fetchRivals(cmd, f, w.cache))
	}
	o := f.options(cmd, w)
	o.Machine, o.Cards, o.NoPasst = f.machine, f.cards, noPasst()
	rep, err := bench.Run(cmd.Context(), o)
	if errors.Is(err, context.Canceled) {
		return err
	}
	return errors.Join(err, f.show(cmd, rep, rep.Print, rep.Chart))
}

// fetchRivals fetches the link's rivals that are not installed. Its error goes into the report.
func fetchRivals(cmd *cobra.Command, f *linkFlags, cache string) error {
	if !bench.NeedsNetwork(f.only) {
		return nil
	}
	stage := f.progress(cmd).Stage("looking for a passt with a vhost-user mode", 0)
	err := bench.Fetch(cmd.Context(), cache)
	stage.Fail(err)
	return err
}

// common are the flags of every measurement.
type common struct {
	output
	quick, quiet bool
	rounds       int
	seconds      float64
	only         []string
	toe          string
}

func (f *common) add(c *cobra.Command, rounds int, seconds float64, parts []string) {
	f.output.add(c)
	c.Flags().BoolVar(&f.quick, "quick", false, "one short round of everything")
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	c.Flags().IntVar(&f.rounds, "rounds", rounds, "rounds of each measurement; figures are medians")
	c.Flags().Float64Var(&f.seconds, "seconds", seconds, "length of one round of traffic")
	c.Flags().StringSliceVar(&f.only, "only", nil,
		"measure only these: "+strings.Join(parts, ", "))
}

func (f *common) check(parts []string) error {
	switch {
	case f.rounds < 1:
		return cli.Usagef("--rounds %d: want at least 1", f.rounds)
	case !(f.seconds >= 1 && f.seconds <= maxSeconds): // NaN is neither
		return cli.Usagef("--seconds %v: want at least 1 and at most %d", f.seconds, maxSeconds)
	}
	for _, part := range f.only {
		if !slices.Contains(parts, part) {
			hint := suggest.DidYouMean(part, parts...)
			return cli.Usagef("--only %q%s; want one of %s", part, hint, strings.Join(parts, ", "))
		}
	}
	return f.output.check()
}

// maxSeconds bounds a round, in seconds.
const maxSeconds = 3600

func (f *common) options(cmd *cobra.Command, w world) bench.Options {
	o := bench.Options{
		Rounds: f.rounds, Length: time.Duration(f.seconds * float64(time.Second)),
		Quick: f.quick, Only: f.only, Toe: w.toe, Version: w.version, Cache: w.cache,
		Progress: f.progress(cmd),
	}
	if f.quick {
		o.Rounds, o.Length = 1, time.Second
	}
	return o
}

func (f *common) progress(cmd *cobra.Command) *progress.Progress {
	if f.quiet {
		return nil
	}
	return progress.New(cmd.ErrOrStderr())
}
