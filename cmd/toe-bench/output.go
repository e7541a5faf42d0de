package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/bench"
	"github.com/toe-project/toe/internal/cli"
)

// formats of a report. The first one is the default.
var formats = []string{"text", "json", "bench"}

// output is the destination and the format of a report.
type output struct {
	json          bool
	format, chart string
}

func (o *output) add(c *cobra.Command) {
	c.Flags().BoolVar(&o.json, "json", false, "print JSON: the same as --format json")
	c.Flags().StringVar(&o.format, "format", formats[0],
		"print text, json, or bench: every round in Go's benchmark format, for benchstat")
	c.Flags().StringVar(&o.chart, "chart", "", "write a chart to this file (SVG)")
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(formats,
		cobra.ShellCompDirectiveNoFileComp))
}

func (o *output) check() error {
	if !slices.Contains(formats, o.format) {
		return cli.Usagef("--format %q: want one of %s", o.format, strings.Join(formats, ", "))
	}
	if o.json {
		if o.format == "bench" {
			return cli.Usagef("--json and --format bench are mutually exclusive")
		}
		o.format = "json"
	}
	return nil
}

// show writes the chart, if one is asked for, and prints the report.
func (o *output) show(
	cmd *cobra.Command, rep bench.Report, text func(io.Writer), chart func(io.Writer) error,
) error {
	if o.chart != "" {
		if err := writeChart(o.chart, chart); err != nil {
			return err
		}
	}
	out := cmd.OutOrStdout()
	switch o.format {
	case "json":
		return cli.JSON(out, rep)
	case "bench":
		return rep.WriteBench(out)
	}
	text(out)
	return nil
}

func writeChart(path string, draw func(io.Writer) error) error {
	var b bytes.Buffer
	if err := draw(&b); err != nil {
		return err
	}
	return writeWhole(path, b.Bytes())
}

// writeWhole replaces a file. On an error the old one stays.
func writeWhole(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}
