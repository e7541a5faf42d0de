package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/diagram"
	"github.com/toe-project/toe/internal/cli"
)

func diagramCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "diagram -f FILE",
		Short: "Draw the topology of a card.yaml as SVG",
		Long: `Diagram writes an SVG of host, link, card, ports and what they are attached to, with modes and
published services. It reads card.yaml alone, and looks at no card.`,
		Example: "  toe diagram -f card.yaml > card.svg\n  toe diagram -f - < card.yaml > card.svg",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return cli.Usagef("diagram: want -f FILE, a card.yaml, or - for standard input")
			}
			s, err := readDrawn(cmd.InOrStdin(), file)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(diagram.Draw(s))
			return err
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the card.yaml; - is standard input")
	return cmd
}

func readDrawn(in io.Reader, file string) (spec.Spec, error) {
	var data []byte
	var err error
	if file == "-" {
		data, err = io.ReadAll(io.LimitReader(in, 1<<20))
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return spec.Spec{}, fmt.Errorf("diagram: %w", err)
	}
	return spec.Parse(file, data)
}
