package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/privilege"
)

// Environment of the process that measures, in a network namespace of its own.
const (
	insideEnv  = "TOE_BENCH_INSIDE"
	noPasstEnv = "TOE_BENCH_NO_PASST" // why there is none
)

func isInside() bool { return os.Getenv(insideEnv) != "" }

func noPasst() error {
	if why := os.Getenv(noPasstEnv); why != "" {
		return errors.New(why)
	}
	return nil
}

// world is the environment of a run on this host.
type world struct {
	toe, version, cache string
}

func (f *common) world(cmd *cobra.Command) (w world, err error) {
	if os.Getuid() != 0 {
		const text = "%s makes network interfaces and namespaces: run it as root"
		return w, fmt.Errorf(text, cmd.Root().Name())
	}
	dirs, err := store.DefaultDirs()
	if err != nil {
		return w, err
	}
	w.cache = dirs.Cache
	if w.toe, err = findToe(f.toe); err != nil {
		return w, err
	}
	if w.version, err = versionOf(cmd.Context(), w.toe); err != nil {
		return w, err
	}
	if own := cmd.Root().Version; w.version != own && !isInside() {
		const text = "%s: it is version %s and %s is version %s\n"
		fmt.Fprintf(cmd.ErrOrStderr(), text, cmd.Root().Name(), own, w.toe, w.version)
	}
	return w, nil
}

// findToe returns the program that starts cards: the named one, otherwise the one next to this
// program, otherwise the one on PATH.
func findToe(named string) (string, error) {
	if named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", fmt.Errorf("--toe: %w", err)
		}
		return filepath.Abs(path)
	}
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), "toe")
		if _, err := exec.LookPath(path); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("toe")
	if err != nil {
		const text = "no program toe beside this one or on PATH: want --toe PATH: %w"
		return "", fmt.Errorf(text, err)
	}
	return filepath.Abs(path)
}

// versionOf returns the version of a toe, which also shows that the program is one.
func versionOf(ctx context.Context, toe string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, toe, "version", "--json").Output()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	var v struct{ Version string }
	if err == nil {
		err = json.Unmarshal(out, &v)
	}
	if err != nil {
		return "", fmt.Errorf("%s version: %w", toe, err)
	}
	return v.Version, nil
}

// inside runs this command again in a network namespace of its own. The namespace and its
// interfaces go with the process.
func inside(cmd *cobra.Command, why error) error {
	if err := cmd.Context().Err(); err != nil {
		return err
	}
	child := exec.Command("/proc/self/exe", os.Args[1:]...)
	child.Args[0] = cmd.Root().Name()
	child.Env = append(os.Environ(), insideEnv+"=1")
	if why != nil {
		child.Env = append(child.Env, noPasstEnv+"="+why.Error())
	}
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	// A group of its own: a terminal's Ctrl-C reaches it through us, once.
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET, Setpgid: true, Pdeathsig: syscall.SIGTERM,
	}
	if err := child.Start(); err != nil {
		return privilege.Namespaces("network namespace", err)
	}
	stop := context.AfterFunc(cmd.Context(), func() { _ = child.Process.Signal(syscall.SIGTERM) })
	defer stop()
	err := child.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if s := exit.ExitCode(); s > 0 {
		return cli.Exit(s) // it has printed why
	}
	if cmd.Context().Err() != nil {
		return cmd.Context().Err()
	}
	return fmt.Errorf("the measuring process ended: %s", exit.ProcessState)
}
