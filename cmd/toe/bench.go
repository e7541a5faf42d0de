package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// benchProgram measures. It is a program of its own, so that this one, which
// runs as root, carries no traffic generators.
const benchProgram = "toe-bench"

// benchCmd becomes toe-bench: signals, exit status and terminal are its own.
func benchCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "bench [ARG…]",
		Short: "Measure the link beside what it competes with (runs toe-bench)",
		Long: `Bench runs toe-bench with the same arguments: the program beside this one, or
else the one on PATH. toe-bench(1) and ` + "`toe bench --help`" + ` describe its flags.`,
		Example: `  toe bench
  toe bench offload
  toe bench --json > bench.json
  toe bench report bench.json --chart bench.svg`,
		DisableFlagParsing: true,
		ValidArgsFunction:  completeBench,
		RunE: func(_ *cobra.Command, args []string) error {
			program, argv, err := benchCommand(args)
			if err != nil {
				return err
			}
			err = syscall.Exec(program, argv, os.Environ())
			return fmt.Errorf("bench: execve %s: %w", program, err)
		},
	}
}

// benchCommand finds toe-bench and makes its arguments. Its first one is this
// very program, which it starts cards with.
func benchCommand(args []string) (program string, argv []string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, fmt.Errorf("bench: the path of this program: %w", err)
	}
	program = filepath.Join(filepath.Dir(self), benchProgram)
	if _, err := exec.LookPath(program); err != nil {
		if program, err = exec.LookPath(benchProgram); err != nil {
			return "", nil, noBench(filepath.Dir(self), err)
		}
	}
	return program, append([]string{benchProgram, "--toe=" + self}, args...), nil
}

func noBench(dir string, err error) error {
	if !errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("bench: %w", withoutExec(err))
	}
	const text = "bench: no program %s in %s or on PATH; `make install` installs it, " +
		"`make` builds it as bin/%[1]s"
	return fmt.Errorf(text, benchProgram, dir)
}

// completeBench asks toe-bench, by cobra's protocol: a word a line, and at the
// end a line of ":" and the directive.
func completeBench(cmd *cobra.Command, args []string, word string) (
	[]string, cobra.ShellCompDirective,
) {
	program, argv, err := benchCommand(append(args, word))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	argv = append([]string{cobra.ShellCompRequestCmd}, argv[1:]...)
	out, err := exec.CommandContext(cmd.Context(), program, argv...).Output()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	last := len(lines) - 1
	n, err := strconv.Atoi(strings.TrimPrefix(lines[last], ":"))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return lines[:last], cobra.ShellCompDirective(n)
}
