package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// standIn is a toe-bench that prints its arguments and exits with 7. It answers
// a question for completion as cobra does.
const standIn = `#!/bin/sh
if [ "$1" = __complete ]; then printf 'offload\tMeasure: all\nreport\n:4\n'; exit; fi
echo "$@"
exit 7
`

func standInBench(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, benchProgram), []byte(standIn), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// asToe makes a copy of this test, which TestMain makes toe, in dir.
func asToe(t *testing.T, dir string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "toe")
	if err := os.Link(self, path); err == nil {
		return path
	}
	data, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(path, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// toe bench becomes the toe-bench beside it, else the one on PATH: with the
// same arguments, its own path before them, and the other's exit status.
func TestBenchBecomesToeBench(t *testing.T) {
	beside := standInBench(t)
	for _, c := range []struct{ name, toe, path string }{
		{"beside", asToe(t, beside), "/nonexistent"},
		{"on PATH", asToe(t, t.TempDir()), standInBench(t)},
	} {
		cmd := exec.Command(c.toe, "bench", "offload", "--json", "--only", "a b")
		cmd.Env = append(os.Environ(), "PATH="+c.path)
		out, err := cmd.Output()
		want := "--toe=" + c.toe + " offload --json --only a b\n"
		if cmd.ProcessState.ExitCode() != 7 || string(out) != want {
			t.Errorf("%s: %v, said %q, want status 7 and %q", c.name, err, out, want)
		}
	}
}

func TestBenchThatIsNotInstalled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(asToe(t, dir), "bench", "--help")
	cmd.Env = []string{"PATH=/nonexistent"}
	out, err := cmd.CombinedOutput()
	want := "toe: bench: no program toe-bench in " + dir + " or on PATH; `make install` installs it"
	if cmd.ProcessState.ExitCode() != 1 || !strings.HasPrefix(string(out), want) {
		t.Errorf("%v, said %q, want %q", err, out, want)
	}
}

func TestBenchCompletes(t *testing.T) {
	t.Setenv("PATH", standInBench(t)+":"+os.Getenv("PATH"))
	cmd := benchCmd()
	cmd.SetContext(t.Context())
	words, directive := completeBench(cmd, nil, "")
	if !slices.Equal(words, []string{"offload\tMeasure: all", "report"}) ||
		directive != cobra.ShellCompDirectiveNoFileComp {
		t.Errorf("%q, directive %d", words, directive)
	}
}

// The measuring code is in toe-bench alone.
func TestToeCarriesNoBenchmarks(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Skipf("go list: %v", err)
	}
	for _, bad := range []string{"/toe/bench", "/wireguard/", "/x/perf/", "/link/fakecard"} {
		if strings.Contains(string(out), bad) {
			t.Errorf("cmd/toe imports %s", bad)
		}
	}
}
