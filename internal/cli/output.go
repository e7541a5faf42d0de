package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/internal/tail"
)

// JSON writes v, indented.
func JSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// Visible is a writer for text that a card had a hand in, its addresses and
// reasons included: nothing in it reaches the terminal as a control sequence.
type Visible struct{ io.Writer }

func (v Visible) Write(b []byte) (int, error) {
	_, err := io.WriteString(v.Writer, tail.Visible(string(b), "\n\t"))
	return len(b), err
}

// Version is the program's version: what the linker set, else what Go recorded
// in the binary.
func Version(linked string) string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// VersionCmd prints the version of the program.
func VersionCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version", Args: NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			root := cmd.Root()
			if asJSON {
				return JSON(cmd.OutOrStdout(), map[string]string{"version": root.Version})
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), root.Name(), root.Version)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
