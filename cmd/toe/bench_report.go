package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/bench"
)

func benchReportCmd() *cobra.Command {
	var chart, docs string
	c := &cobra.Command{
		Use:   "report FILE",
		Short: "Show what a run printed as JSON",
		Long: `Report prints the tables of a run that was kept with --json, and makes the
chart and the figures of docs/benchmarks.md of it.`,
		Example: "  toe bench report bench.json\n  toe bench report bench.json --chart docs/benchmarks.svg --docs docs/benchmarks.md",
		Args:    oneOf("report", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			rep, err := readReport(args[0])
			if err != nil {
				return err
			}
			if chart != "" {
				if err := writeChart(chart, rep.Chart); err != nil {
					return err
				}
			}
			if docs != "" {
				return writeFigures(docs, rep)
			}
			rep.Print(cmd.OutOrStdout())
			return nil
		},
	}
	c.Flags().StringVar(&chart, "chart", "", "write a chart to this file (SVG)")
	c.Flags().StringVar(&docs, "docs", "", "put the figures into this document, between its marks, and print nothing")
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

func writeChart(path string, draw func(io.Writer) error) error {
	var b bytes.Buffer
	if err := draw(&b); err != nil {
		return err
	}
	return writeWhole(path, b.Bytes())
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

// writeWhole replaces a file, and leaves the old one when it cannot.
func writeWhole(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}
