package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/bench"
	"github.com/toe-project/toe/internal/cli"
)

func reportCmd() *cobra.Command {
	var o output
	var docs string
	c := &cobra.Command{
		Use:   "report FILE",
		Short: "Show a run that was kept as JSON",
		Long: `Report prints a run that was kept with --json, as tables or in another format,
and makes the chart and the figures of docs/benchmarks.md from it.`,
		Example: `  toe-bench report bench.json
  toe-bench report bench.json --format bench > bench.txt
  toe-bench report bench.json --chart docs/benchmarks.svg --docs docs/benchmarks.md`,
		Args: cli.One("report", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			rep, err := readReport(args[0])
			if err != nil {
				return err
			}
			if docs == "" {
				return o.show(cmd, rep, rep.Print, rep.Chart)
			}
			if o.chart != "" {
				if err := writeChart(o.chart, rep.Chart); err != nil {
					return err
				}
			}
			return writeFigures(docs, rep)
		},
	}
	o.add(c)
	c.Flags().StringVar(&docs, "docs", "",
		"put the figures into this document, between its marks, and print nothing")
	return c
}

func readReport(path string) (bench.Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return bench.Report{}, err
	}
	defer f.Close()
	rep, err := bench.ReadReport(f)
	if err != nil {
		return rep, fmt.Errorf("report %s: %w", path, err)
	}
	return rep, nil
}

func writeFigures(path string, rep bench.Report) error {
	doc, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if doc, err = rep.Into(doc); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return writeWhole(path, doc)
}
