package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/bench"
	"github.com/toe-project/toe/card"
	"github.com/toe-project/toe/internal/progress"
)

// insideNamespace marks the process that toe bench starts in a network
// namespace of its own.
const insideNamespace = "TOE_BENCH_INSIDE"

// noPasst tells that process why there is no passt to measure.
const noPasst = "TOE_BENCH_NO_PASST"

type benchFlags struct {
	asJSON, quick, quiet bool
	rounds, cards        int
	seconds              float64
	only                 []string
	machine, chart       string
}

func benchCmd() *cobra.Command {
	var f benchFlags
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure the link beside what it competes with, in one run",
		Long: `Bench measures the pump alone and a card of its own over its link, beside bare
system calls, and the same card on QEMU's own tap and on passt. It works in
network namespaces that it makes, beside the cards that run, and leaves nothing
behind. Root only. All of it takes about ten minutes, with --quick two.
docs/benchmarks.md says how each figure is made.`,
		Example: "  toe bench\n  toe bench --only pump --rounds 5\n  toe bench --json > bench.json\n  toe bench report bench.json --chart bench.svg",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runBench(cmd, f) },
	}
	c.Flags().BoolVar(&f.asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&f.quick, "quick", false, "one short round of everything")
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	c.Flags().IntVar(&f.rounds, "rounds", 5, "rounds of each measurement; figures are medians")
	c.Flags().IntVar(&f.cards, "cards", 0, "how many cards to start at once (default 20, with tcg or --quick 4)")
	c.Flags().Float64Var(&f.seconds, "seconds", 2, "length of one round of traffic")
	c.Flags().StringSliceVar(&f.only, "only", nil, "measure only these: "+strings.Join(bench.Parts(), ", "))
	c.Flags().StringVar(&f.machine, "machine", "auto", "kind of the card: auto, kvm, uml or tcg")
	c.AddCommand(benchOffloadCmd())
	c.AddCommand(benchReportCmd())
	c.Flags().StringVar(&f.chart, "chart", "", "write a chart to this file (SVG)")
	return c
}

// check is for what no measurement can be made with.
func (f benchFlags) check() error {
	switch {
	case f.rounds < 1:
		return usageError{fmt.Errorf("--rounds %d: want at least 1", f.rounds)}
	case f.seconds < 1:
		return usageError{fmt.Errorf("--seconds %v: want at least 1", f.seconds)}
	case f.cards < 0:
		return usageError{fmt.Errorf("--cards %d: want at least 1, or 0 for the default", f.cards)}
	}
	for _, part := range f.only {
		if !slices.Contains(bench.Parts(), part) {
			return usageError{fmt.Errorf("--only %q%s; there are %s", part, suggestion(part, bench.Parts()), strings.Join(bench.Parts(), ", "))}
		}
	}
	return nil
}

func runBench(cmd *cobra.Command, f benchFlags) error {
	if err := f.check(); err != nil {
		return err
	}
	if os.Getuid() != 0 {
		return errors.New("bench makes network interfaces and namespaces: run it as root")
	}
	dirs, err := card.DefaultDirs()
	if err != nil {
		return err
	}
	if os.Getenv(insideNamespace) == "" {
		return benchInside(cmd, fetchRivals(cmd, f, dirs.Cache))
	}
	o := bench.Options{
		Rounds: f.rounds, Length: time.Duration(f.seconds * float64(time.Second)), Quick: f.quick, Only: f.only,
		Machine: f.machine, Cards: f.cards, Program: "/proc/self/exe", Cache: dirs.Cache,
	}
	if why := os.Getenv(noPasst); why != "" {
		o.NoPasst = errors.New(why)
	}
	if f.quick {
		o.Rounds, o.Length = 1, time.Second
	}
	if !f.quiet {
		o.Progress = progress.New(cmd.ErrOrStderr())
	}
	rep, err := bench.Run(cmd.Context(), o)
	if errors.Is(err, context.Canceled) {
		return err
	}
	return errors.Join(err, showBench(cmd, f, rep))
}

func showBench(cmd *cobra.Command, f benchFlags, rep bench.Report) error {
	if f.chart != "" {
		if err := writeChart(f.chart, rep.Chart); err != nil {
			return err
		}
	}
	if f.asJSON {
		return printJSON(cmd.OutOrStdout(), rep)
	}
	rep.Print(cmd.OutOrStdout())
	return nil
}

// fetchRivals brings what is measured beside the link and is not installed;
// why it could not is told in the report.
func fetchRivals(cmd *cobra.Command, f benchFlags, cache string) error {
	if !bench.NeedsNetwork(f.only) {
		return nil
	}
	var p *progress.Progress
	if !f.quiet {
		p = progress.New(cmd.ErrOrStderr())
	}
	stage := p.Stage("looking for a passt with a vhost-user mode", 0)
	err := bench.Fetch(cmd.Context(), cache)
	stage.Fail(err)
	return err
}

// benchInside runs this command again in a network namespace of its own,
// which goes away with it, and all interfaces in it.
func benchInside(cmd *cobra.Command, why error) error {
	if err := cmd.Context().Err(); err != nil {
		return err
	}
	child := exec.Command("/proc/self/exe", os.Args[1:]...)
	child.Args[0] = "toe"
	child.Env = append(os.Environ(), insideNamespace+"=1")
	if why != nil {
		child.Env = append(child.Env, noPasst+"="+why.Error())
	}
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A group of its own: a terminal's Ctrl-C reaches it through us, once.
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := child.Start(); err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	stop := context.AfterFunc(cmd.Context(), func() { _ = child.Process.Signal(syscall.SIGTERM) })
	defer stop()
	err := child.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if cmd.Context().Err() != nil {
			return cmd.Context().Err()
		}
		if s := exit.ExitCode(); s > 0 {
			return exitError{s}
		}
		return fmt.Errorf("the measuring process ended: %s", exit.ProcessState)
	}
	return err
}
