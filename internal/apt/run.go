package apt

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// grace is how long a program may take to end after it was told to.
const grace = 5 * time.Second

// command is a program in a process group of its own, all of which ends with ctx. Its messages are
// in English, whatever the user's language, like those around them.
func command(ctx context.Context, env []string, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = grace
	return cmd
}

// output runs a program and returns what it wrote to its standard output. The error contains what it
// wrote to stderr.
func output(ctx context.Context, env []string, name string, args ...string) (string, error) {
	return outputIn(ctx, "", env, name, args...)
}

func outputIn(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	cmd := command(ctx, env, name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &complaint
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("%s %s: %w%s", name, strings.Join(args, " "), err, indented(complaint.String()))
	}
	return out.String(), nil
}

func indented(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString("\n  " + line)
		}
	}
	return b.String()
}
