package firmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/internal/progress"
)

// ensureAgent compiles the agent of another architecture than the host's if it is missing or of
// another version than this program, and this program stands in bin of its source tree. Without
// the tree or a compiler it leaves what is there.
func ensureAgent(ctx context.Context, o Options) error {
	a := o.row()
	want, err := agentPath(a)
	if err != nil || a.IsHost() || o.AgentPath != want {
		return err
	}
	if program, err := os.ReadFile(want); err == nil && agentOf(program).Version == o.Version {
		return nil
	}
	err = CompileAgent(ctx, a, o.Version, o.Progress)
	if errors.Is(err, ErrNoSource) {
		return nil
	}
	return err
}

// ErrNoSource means that an agent cannot be compiled here.
var ErrNoSource = errors.New("an agent of another architecture is compiled in the source tree")

// CompileAgent compiles the agent of an architecture into the file that Build takes. A version
// other than "" is recorded in it. Errors: ErrNoSource.
func CompileAgent(ctx context.Context, a arch.Arch, version string, p *progress.Progress) (err error) {
	out, err := agentPath(a)
	if err != nil {
		return err
	}
	tree := filepath.Dir(filepath.Dir(out))
	if mod, err := os.ReadFile(filepath.Join(tree, "go.mod")); err != nil || !bytes.HasPrefix(mod, []byte("module github.com/toe-project/toe\n")) {
		return fmt.Errorf("%w: %s is not in its bin", ErrNoSource, filepath.Base(os.Args[0]))
	}
	compiler, err := findGo()
	if err != nil {
		return err
	}
	stage := p.Stage("compiling the agent for "+a.Name, 0)
	defer func() {
		if err != nil {
			stage.Fail(err)
		} else {
			stage.Done("")
		}
	}()
	flags := "-s -w"
	if version != "" {
		flags += ` -X "main.stamp=` + versionMark + version + `;"`
	}
	cmd := exec.CommandContext(ctx, compiler, "build", "-trimpath", "-ldflags", flags, "-o", out, "./cmd/toe-agent")
	cmd.Dir = tree
	cmd.Env = slices.Concat(os.Environ(), []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + a.Go}, a.Env)
	text, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("compiling %s: %w: %.1000s", out, err, strings.TrimSpace(string(text)))
	}
	return nil
}

// findGo finds the compiler also where sudo has reset PATH.
func findGo() (string, error) {
	for _, name := range []string{"go", "/usr/local/go/bin/go"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: no program go in PATH", ErrNoSource)
}
