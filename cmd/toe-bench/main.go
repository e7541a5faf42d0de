// Command toe-bench measures a card's link, and the host's cost of endpoint mode, compared with
// their competitors. `toe bench` runs it.
package main

import (
	"os"

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
