// Toe-agent is the program on the card: its init, its network and its API.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/toe-project/toe/agent"
	"github.com/toe-project/toe/agent/upgrade"
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
	// The worker of an upgrade is the first process of a name space.
	if os.Getpid() == 1 && (len(os.Args) < 2 || os.Args[1] != agent.WorkerVerb) {
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
	if len(os.Args) > 1 && os.Args[1] == "upgrade" {
		upgradeCard(os.Args[2:])
		return
	}
	if len(os.Args) > 2 && os.Args[1] == "update" { // what updatesPart writes into a unit
		updateCard(os.Args[2:])
		return
	}
	if len(os.Args) == 2 && os.Args[1] == agent.WorkerVerb {
		if upgrade.Run(context.Background(), os.Stdin, os.Stdout) != nil { // its output has the error
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
	switch words := strings.Join(args, " "); {
	case len(args) > 0 && len(args) <= 3 && args[0] == "offer":
		return func() error { return agent.AnswerOffer(strings.Join(args[1:], " "), os.Stdout) }
	case words == "zero-trust off":
		return agent.EndZeroTrust
	}
	return nil
}

const upgradeUsage = `usage: toe-agent upgrade [--no-reboot]

Brings the packages of this card up to date in a copy of the running slot, in the slot beside it, and
restarts the card into that. Where it does not become healthy the card goes back by itself.`

// upgradeCard is the verb of the card's administrator.
func upgradeCard(args []string) {
	reboot := true
	for _, a := range args {
		switch a {
		case "--no-reboot":
			reboot = false
		case "--help", "-h":
			fmt.Println(upgradeUsage)
			return
		default:
			fmt.Fprintf(os.Stderr, "toe-agent upgrade: %q: want --no-reboot or nothing\n", a)
			os.Exit(2)
		}
	}
	untilSignal("upgrade", func(ctx context.Context) error { return agent.AdminUpgrade(ctx, os.Stdout, reboot) })
}

// updateCard is what the timer of `updates` in card.yaml runs: --packages, --image URL.
func updateCard(args []string) {
	packages, image := false, ""
	for ; len(args) > 0; args = args[1:] {
		switch {
		case args[0] == "--packages":
			packages = true
		case args[0] == "--image" && len(args) > 1:
			image, args = args[1], args[1:]
		default:
			fmt.Fprintf(os.Stderr, "toe-agent update: %q: want --packages or --image URL\n", args[0])
			os.Exit(2)
		}
	}
	untilSignal("update", func(ctx context.Context) error { return agent.SelfUpdate(ctx, os.Stdout, packages, image) })
}

// untilSignal runs a verb, and exits with 1 when it fails.
func untilSignal(verb string, run func(context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "toe-agent %s: %v\n", verb, err)
		os.Exit(1)
	}
}
