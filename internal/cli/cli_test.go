package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// program is a command line with one of everything.
func program() *cobra.Command {
	root := &cobra.Command{Use: "prog", Version: "v1"}
	leaf := func(use string, args cobra.PositionalArgs) *cobra.Command {
		return &cobra.Command{Use: use, Short: use, Args: args,
			RunE: func(*cobra.Command, []string) error { return nil }}
	}
	group, runs, typed := leaf("group", nil), leaf("runs -- CMD", nil), leaf("typed", NoArgs)
	group.RunE = nil
	group.AddCommand(leaf("build", NoArgs), leaf("status [NAME]", AtMostOne("card", "NAME")))
	runs.Annotations = map[string]string{RunsCommand: ""}
	typed.Flags().Int("rounds", 0, "")
	typed.Flags().Uint32P("tail", "n", 0, "")
	typed.Flags().Bool("json", false, "")
	typed.Flags().Float64("seconds", 0, "")
	typed.Flags().Duration("timeout", 0, "")
	typed.Flags().StringP("file", "f", "", "a file")
	typed.Flags().StringSlice("only", nil, "")
	root.AddCommand(group, runs, typed, leaf("rm NAME", One("card", "NAME")), ManCmd(), VersionCmd())
	return root
}

func execute(args ...string) (status int, out, errs string) {
	var stdout, stderr bytes.Buffer
	root := program()
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	status = Execute(context.Background(), root, args)
	return status, stdout.String(), stderr.String()
}

func TestUse(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"", 0, ""},
		{"group", 0, ""},
		{"group build", 0, ""},
		{"group status x", 0, ""},
		{"typed --json --rounds 2 --timeout 2s", 0, ""},
		{"version", 0, ""},
		{"help", 0, ""},
		{"help group build", 0, ""},
		{"completion bash", 0, ""},
		{"--version", 0, ""},
		{"grup", 2, `prog: no command "grup"; did you mean "group"?`},
		{"xyzzy --foo", 2, `prog: no command "xyzzy"`},
		{"group biuld", 2, `prog: group: no command "biuld"; did you mean "build"?; want one of build, status`},
		{"group xyzzy --foo", 2, `prog: group: no command "xyzzy"; want one of build, status`},
		{"group --foo", 2, "prog: unknown flag --foo\nSee `prog group --help`."},
		{"group build x", 2, `prog: group build: unexpected argument "x": want none`},
		{"group status a b", 2, `prog: group status: which card? want at most one NAME, got ["a" "b"]`},
		{"rm", 2, "prog: rm: which card? want one NAME, got 0"},
		{"completion bsh", 2, `prog: completion: no command "bsh"; did you mean "bash"?`},
		{"completion bash x", 2, `prog: completion bash: unexpected argument "x": want none`},
		{"help grup", 2, `prog: no command "grup"`},
		{"help rm x", 2, `prog: help: "x": prog rm has no subcommands`},
		{"runs --foo", 2, "unknown flag --foo; the command to run comes after --, as in `prog runs -- CMD`"},
		{"typed --jsno", 2, `unknown flag --jsno; did you mean "json"?`},
		{"typed -x", 2, "unknown flag -x"},
		{"typed --=x", 2, `flag "--=x": want --NAME or --NAME=VALUE`},
		{"typed --rounds x", 2, `--rounds: "x": want a whole number`},
		{"typed -n -5", 2, `--tail: "-5": want a whole number, 0 or more`},
		{"typed --json=x", 2, `--json: "x": want true or false`},
		{"typed --seconds x", 2, `--seconds: "x": want a number`},
		{"typed --timeout 5", 2, `--timeout: "5": want a time, such as 30s or 2m`},
		{"typed -f", 2, "--file: no value: want a file"},
		{`typed --only "`, 2, `--only: "\"": want words separated by commas`},
	} {
		status, _, errs := execute(strings.Fields(c.args)...)
		if status != c.status || !strings.Contains(errs, c.says) {
			t.Errorf("prog %s: status %d, want %d\nsaid %q\nwant %q", c.args, status, c.status, errs, c.says)
		}
	}
}

func TestErrorsBecomeStatuses(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{Usage{errors.New("x")}, 2},
		{fmt.Errorf("wrapped: %w", Usagef("x")), 2},
		{Exit(42), 42},
		{context.Canceled, 130},
	} {
		cmd := &cobra.Command{}
		cmd.SetErr(&bytes.Buffer{})
		if got := report(cmd, c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}

// An error may contain words of a card or of a file. They do not act on the
// terminal.
func TestErrorsAreFitForATerminal(t *testing.T) {
	said := errors.New("the card refuses: \x1b]52;c;bHM=\x07\n\tline 2")
	for _, err := range []error{said, Usage{said}} {
		var out bytes.Buffer
		cmd := &cobra.Command{Use: "toe"}
		cmd.SetErr(&out)
		report(cmd, err)
		if !strings.HasPrefix(out.String(), "toe: the card refuses: ?]52;c;bHM=?\n\tline 2\n") {
			t.Errorf("%T printed %q", err, out.String())
		}
	}
}

func TestMan(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	if status, _, errs := execute("man", dir); status != 0 {
		t.Fatal(errs)
	}
	for _, page := range []string{"prog.1", "prog-group.1", "prog-group-build.1"} {
		if fi, err := os.Stat(filepath.Join(dir, page)); err != nil || fi.Size() == 0 {
			t.Errorf("%s: %v", page, err)
		}
	}
}

func TestVersion(t *testing.T) {
	for args, want := range map[string]string{
		"version": "prog v1\n", "--version": "prog v1\n", "version --json": "{\n  \"version\": \"v1\"\n}\n",
	} {
		if _, out, _ := execute(strings.Fields(args)...); out != want {
			t.Errorf("%s: %q, want %q", args, out, want)
		}
	}
	if got := Version("v2"); got != "v2" {
		t.Errorf("what the linker set: %q", got)
	}
}
