package main

import (
	"github.com/spf13/cobra"

	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/machine"
)

func firmwareSBOMCmd() *cobra.Command {
	var kind string
	cmd := &cobra.Command{
		Use:   "sbom",
		Short: "Print the bill of materials of edition debian",
		Long: `Sbom prints the packages of the current image of edition debian, as dpkg lists
them in it: a bill of materials in SPDX 2.3, JSON, which scanners of
vulnerabilities read.`,
		Example: "  toe firmware sbom > card.spdx.json\n  toe firmware sbom --machine uml",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kind == string(firmware.QEMU) {
				kind = string(machine.TCG)
			}
			dir, err := firmware.CacheDir()
			if err != nil {
				return err
			}
			if _, err := firmware.TargetOf(machine.Kind(kind)); err != nil {
				return cli.Usagef("--machine %q: want qemu or uml", kind)
			}
			img, err := firmware.Find(dir, firmware.Debian, machine.Kind(kind), arch.Host().Name)
			if err != nil {
				return err
			}
			text, err := img.SBOM()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	cmd.Flags().StringVar(&kind, "machine", string(firmware.QEMU), "machine of the image: qemu or uml")
	return cmd
}
