// Toe-agent is the program on the card: its init, its network and its API.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/toe-project/toe/agent"
)

// stamp is set by the linker to "toe-agent-version=VERSION;". A build of firmware finds the version
// in the program by what stands around it, which must not stand there twice (firmware/agent.go).
var stamp = "devel"

func main() {
	version := strings.TrimSuffix(stamp[strings.Index(stamp, "=")+1:], ";")
	if len(os.Args) == 2 && (os.Args[1] == "version" || os.Args[1] == "--version") {
		fmt.Println("toe-agent", version)
		return
	}
	if os.Getpid() == 1 {
		agent.Init(version)
	}
	if len(os.Args) == 2 && (os.Args[1] == "early" || os.Args[1] == "serve") {
		run := agent.Serve
		if os.Args[1] == "early" {
			run = agent.Early
		}
		if err := run(version); err != nil {
			fmt.Fprintln(os.Stderr, "toe-agent:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 3 && os.Args[1] == "bench-serve" { // toe bench's far end, through ssh
		if err := agent.BenchServe(os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "toe-agent: bench-serve:", err)
			os.Exit(1)
		}
		return
	}
	if run := admin(os.Args[1:]); run != nil {
		if err := run(); err != nil {
			fmt.Fprintln(os.Stderr, "toe-agent:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 2 && os.Args[1] == agent.SFTPVerb {
		if err := agent.ServeSFTP(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "toe-agent: sftp:", err)
			os.Exit(1)
		}
		return
	}
	fmt.Fprintln(os.Stderr, "toe-agent: a card's init, to run as process 1 of a card: want \"toe-agent version\" here")
	os.Exit(2)
}

// admin returns what an administrator of a card with zero_trust asks for, or nil.
func admin(args []string) func() error {
	switch words := strings.Join(args, " "); words {
	case "offer", "offer accept", "offer refuse":
		return func() error { return agent.AnswerOffer(strings.TrimPrefix(words[len("offer"):], " "), os.Stdout) }
	case "zero-trust off":
		return agent.EndZeroTrust
	}
	return nil
}
