package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/hostnet/passt"
	"github.com/toe-project/toe/internal/progress"
)

// passtCmd is the self-test of a passt; package passt starts it.
func passtCmd() *cobra.Command {
	return &cobra.Command{
		Use: passt.Verb + " -- PASST", Hidden: true, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, argv []string) error { return passt.Main(argv) },
	}
}

// bringPasst puts into the cache what a user port needs from the network. Its
// failure is told as progress: not every card has a user port.
func bringPasst(ctx context.Context, cache string, offline bool, p *progress.Progress) {
	if !offline {
		_, _ = passt.Choose(ctx, cache, p)
	}
}

// testPasst finds a passt for the user ports of a card here, where its progress
// can be seen; the supervisor then finds the verdict in the cache. A host that
// has none is no error yet: QEMU has a user network of its own.
func testPasst(ctx context.Context, cache string, s spec.Spec, p *progress.Progress) error {
	user := func(p spec.Port) bool { return p.Attach.Kind == spec.AttachUser }
	if !slices.ContainsFunc(s.Ports, user) {
		return nil
	}
	_, err := passt.Choose(ctx, cache, p)
	if errors.Is(err, passt.ErrMissing) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("attach user: %w", err)
	}
	return nil
}
