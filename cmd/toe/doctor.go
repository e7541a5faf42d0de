package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/doctor"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/cli"
)

func doctorCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this host: pass, warn, fail or skip, with the command that fixes it",
		Long:  "Doctor checks what a card needs of this host. It exits with status 1 if a check fails.",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dirs, err := store.DefaultDirs()
			if err != nil {
				return err
			}
			results := doctor.Run(cmd.Context(), doctor.Host{Dirs: dirs, Machines: machines(dirs.Cache, "", arch.Host()).Machines})
			if asJSON {
				err = cli.JSON(cmd.OutOrStdout(), map[string]any{"checks": results, "ok": !doctor.Failed(results)})
			} else {
				printChecks(cmd.OutOrStdout(), results)
			}
			if err == nil && doctor.Failed(results) {
				return cli.Exit(cli.Failure)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printChecks(w io.Writer, results []doctor.Result) {
	w = cli.Visible{Writer: w}
	for _, r := range results {
		fmt.Fprintf(w, "%-4s  %-15s  %s\n", r.State, r.Name, r.Detail)
		if r.Fix != "" {
			fmt.Fprintf(w, "      %-15s  fix: %s\n", "", r.Fix)
		}
	}
}
