package bench

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/toe-project/toe/hostnet/passt"
)

// findPasst returns the command of a passt with a vhost-user mode: the installed one, otherwise the
// one that Fetch brought.
func (r *run) findPasst(ctx context.Context) ([]string, error) {
	if path, err := exec.LookPath("passt"); err == nil && hasVhostUser(ctx, path) == nil {
		return []string{path}, nil
	}
	err := r.NoPasst
	var program passt.Program
	if err == nil {
		program, err = passt.Fetched(r.Cache)
	}
	if err == nil {
		err = hasVhostUser(ctx, program.Argv...)
	}
	if err != nil {
		return nil, fmt.Errorf("no passt with --vhost-user is installed, and fetching one failed: %w", err)
	}
	return program.Argv, nil
}

func hasVhostUser(ctx context.Context, program ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program[0], append(program[1:], "--help")...).CombinedOutput()
	if !strings.Contains(string(out), "--vhost-user") {
		return fmt.Errorf("%s: no --vhost-user in --help (%v)", strings.Join(program, " "), err)
	}
	return nil
}

// Fetch downloads what a run needs and the host lacks: a passt with a vhost-user mode. A run has no
// network, so call it before.
func Fetch(ctx context.Context, cache string) error {
	if path, err := exec.LookPath("passt"); err == nil && hasVhostUser(ctx, path) == nil {
		return nil
	}
	if _, err := passt.Fetched(cache); err == nil {
		return nil
	}
	_, err := passt.Fetch(ctx, cache, nil)
	return err
}
