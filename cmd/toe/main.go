// Command toe is the host's side of a card: an independent Linux node that
// this machine is joined to by raw IP packets.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/sandbox"
	"github.com/toe-project/toe/link/worker"
)

// buildVersion is set by the linker (Makefile).
var buildVersion string

func main() {
	sandbox.Main() // does not return in a process that becomes a machine's cell
	worker.Main()  // nor in a pump
	os.Exit(cli.Main(rootCmd()))
}

func rootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "toe",
		Short: "Run a card: an independent Linux node that does this host's networking",
		Long: `A card is a small computer beside this host, with network ports of its own.
toe runs it as a virtual machine and joins it to the host by raw IP packets
with an MTU of 65535. Without a NAME, commands mean the card called card0.`,
		Example: `  toe up                      create and start card0
  toe ssh -- uname -a         run a command on the card
  toe exec -- curl URL        run a command here, with the card as its only network
  toe down                    take it down again`,
		Version: cli.Version(buildVersion),
	}
	root.AddCommand(
		upCmd(), downCmd(), resetCmd(), rmCmd(), lsCmd(), statusCmd(), consoleCmd(), sshCmd(), cpCmd(),
		logsCmd(), captureCmd(), eventsCmd(), supportCmd(), execCmd(), applyCmd(), serviceCmd(), diagramCmd(), firmwareCmd(), doctorCmd(), benchCmd(), schemaCmd(),
		pumpCmd(), runCmd(), holderCmd(), passtCmd(), cli.ManCmd(), cli.VersionCmd(),
	)
	return root
}
