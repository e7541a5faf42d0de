package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
)

// firmwareAgentsCmd is what `make agents` and `make build` run.
func firmwareAgentsCmd() *cobra.Command {
	var built, list bool
	cmd := &cobra.Command{
		Use: "agents", Hidden: true, Args: cli.NoArgs,
		Short: "Compile the agents of other architectures than the host's, in the source tree",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := progress.New(cmd.ErrOrStderr())
			for _, a := range arch.All {
				if a.IsHost() || built && !agentBuilt(a) {
					continue
				}
				if list {
					fmt.Fprintln(cmd.OutOrStdout(), a.Name)
					continue
				}
				if err := firmware.CompileAgent(cmd.Context(), a, cli.Version(buildVersion), p); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&built, "built", false, "only those that have been compiled before")
	cmd.Flags().BoolVar(&list, "list", false, "print the architectures, and compile nothing")
	return cmd
}

func agentBuilt(a arch.Arch) bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(filepath.Dir(self), "toe-agent-"+a.Name))
	return !errors.Is(err, os.ErrNotExist)
}
