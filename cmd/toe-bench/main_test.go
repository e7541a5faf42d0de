package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/toe-project/toe/internal/cli"
)

func toeBench(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	root := rootCmd()
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	status = cli.Execute(context.Background(), root, args)
	return status, stdout.String(), stderr.String()
}

func TestMisuse(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"ofload", `toe-bench: no command "ofload"; did you mean "offload"?`},
		{"report", "toe-bench: report: which report? want one FILE, got 0"},
		{"--rounds 0", "--rounds 0: want at least 1"},
		{"--seconds -1", "--seconds -1: want at least 1"},
		{"--seconds NaN", "--seconds NaN: want at least 1"},
		{"--cards -1", "--cards -1: want at least 1, or 0 for the default"},
		{"--only pmup", `--only "pmup"; did you mean "pump"?; want one of copy, pump`},
		{"--format yaml", `--format "yaml": want one of text, json, bench`},
		{"--json --format bench", "--json and --format bench are mutually exclusive"},
		{"--rounds x", `--rounds: "x": want a whole number`},
		{"offload x", `toe-bench: offload: unexpected argument "x": want none`},
		{"offload --only plian", `--only "plian"; did you mean "plain"?`},
		{"offload --rounds 0", "--rounds 0: want at least 1"},
	} {
		status, _, errs := toeBench(t, strings.Fields(c.args)...)
		if status != cli.Misuse || !strings.Contains(errs, c.says) {
			t.Errorf("toe-bench %s: status %d\nsaid %q\nwant %q", c.args, status, errs, c.says)
		}
	}
}

// Every measurement has --json.
func TestJSONEverywhere(t *testing.T) {
	for _, verb := range []string{"", "offload", "report", "version"} {
		cmd, _, err := rootCmd().Find(strings.Fields(verb))
		if err != nil || cmd.Flags().Lookup("json") == nil {
			t.Errorf("toe-bench %s has no --json (%v)", verb, err)
		}
	}
}

// The program that starts cards must be a toe. The error names a program that is not.
func TestToeIsFound(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a run of toe-bench needs root")
	}
	dir := t.TempDir()
	silent := filepath.Join(dir, "silent")
	if err := os.WriteFile(silent, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	for args, says := range map[string]string{
		"":                          "no program toe beside this one or on PATH: want --toe PATH",
		"--toe " + dir + "/missing": "--toe: ",
		"--toe " + silent:           silent + " version: ",
	} {
		status, _, errs := toeBench(t, strings.Fields(args)...)
		if status != cli.Failure || !strings.Contains(errs, says) {
			t.Errorf("toe-bench %s: status %d, said %q, want %q", args, status, errs, says)
		}
	}
}
