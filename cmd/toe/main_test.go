package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/doctor"
	"github.com/toe-project/toe/internal/cli"
)

// toe runs the command line in folders of the test's own.
func toe(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	root := rootCmd()
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	status = cli.Execute(context.Background(), root, args)
	return status, stdout.String(), stderr.String()
}

func ownFolders(t *testing.T) {
	dir, err := os.MkdirTemp("", "toe")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, v := range []string{"STATE", "RUNTIME", "CACHE"} {
		t.Setenv("TOE_"+v+"_DIR", filepath.Join(dir, strings.ToLower(v)))
	}
}

func TestExitStatus(t *testing.T) {
	ownFolders(t)
	bad := filepath.Join(t.TempDir(), "card.yaml")
	if err := os.WriteFile(bad, []byte("nmae: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	named := filepath.Join(t.TempDir(), "named.yaml")
	if err := os.WriteFile(named, []byte("name: other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	astray := filepath.Join(t.TempDir(), "astray.yaml")
	if err := os.WriteFile(astray, []byte("ports: [{name: wan, attach: \"bridge:nosuch0\"}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain, err := os.Open(bad)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	fileno := strconv.Itoa(int(plain.Fd()))
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"ls", 0, ""},
		{"ls --json", 0, ""},
		{"version", 0, ""},
		{"schema", 0, ""},
		{"help", 0, ""},
		{"stauts", 2, `toe: no command "stauts"; did you mean "status"?`},
		{"xyzzy", 2, `toe: no command "xyzzy"`},
		{"xyzzy --foo", 2, `toe: no command "xyzzy"`},
		{"firmware biuld", 2, `toe: firmware: no command "biuld"; did you mean "build"?; want one of build, `},
		{"firmware xyzzy --offline", 2, `toe: firmware: no command "xyzzy"; want one of build, `},
		{"firmware --offline", 2, "unknown flag --offline"},
		{"firmware keys rotate --authority --drop-old", 2, "--authority and --drop-old are mutually exclusive"},
		{"firmware keys init --days 0", 2, "--days 0: want 1 to 36500 days"},
		{"firmware keys show --keys /no/such", 1, "no release keys in /no/such; fix: `toe firmware keys init`"},
		{"firmware install", 2, "firmware install: which bundle? want [NAME] BUNDLE|URL, got []"},
		{"firmware install a b c", 2, "which bundle? want [NAME] BUNDLE|URL"},
		{"firmware install nosuch /no/such", 1, "bundle /no/such: no such file or directory"},
		{"firmware install nosuch https://h/b", 1, "card nosuch: no such card"},
		{"firmware bundle", 2, "which file? -o FILE.raucb"},
		{"firmware bundle -o x --edition micro", 2, "--edition \"micro\": want debian, the edition with slots"},
		{"firmware bundle -o x --version v1", 2, "--version \"v1\": want up to three numbers"},
		{"firmware build extra", 2, `toe: firmware build: unexpected argument "extra": want none`},
		{"firmware build --edition huge", 2, `--edition "huge": want one of ["micro" "debian"`},
		{"completion bsh", 2, `toe: completion: no command "bsh"; did you mean "bash"?; want one of bash, fish, powershell, zsh`},
		{"completion bash extra", 2, `toe: completion bash: unexpected argument "extra": want none`},
		{"completion bash", 0, ""},
		{"help up", 0, ""},
		{"help firmware build", 0, ""},
		{"help stauts", 2, `toe: no command "stauts"; did you mean "status"?`},
		{"help firmware biuld", 2, `toe: firmware: no command "biuld"; did you mean "build"?`},
		{"help up extra", 2, `toe: help: "extra": toe up has no subcommands`},
		{"logs -x", 2, "unknown flag -x"},
		{"capture nosuch -w x", 1, "card nosuch: no such card"},
		{"capture -c -1", 2, `--count: "-1": want a whole number, 0 or more`},
		{"status --=x", 2, `flag "--=x": want --NAME or --NAME=VALUE`},
		{"status --json=x", 2, `--json: "x": want true or false`},
		{"logs -n -5", 2, `--tail: "-5": want a whole number, 0 or more`},
		{"up -f", 2, "--file: no value: want"},
		{"pump", 2, "want --interface and one of --socket-path and --fd"},
		{"pump --interface a/b --socket-path x", 2, `interface name "a/b"`},
		{"pump --interface t --socket-path x --queues 0", 2, "--queues 0: between 1 and 256"},
		{"pump --interface t --socket-path x --spin -1", 2, "--spin -1: between 0 and 10000 µs"},
		{"pump --interface t --socket-path x --spin 10001", 2, "--spin 10001: between 0 and 10000 µs"},
		{"pump --interface t --fd 2000", 2, "--fd 2000: no such descriptor"},
		{"pump --interface t --fd " + fileno, 2, "want a connected stream socket, and this is none"},
		{"status --jsno", 2, `unknown flag --jsno; did you mean "json"?`},
		{"status a b", 2, `toe: status: which card? want at most one NAME, got ["a" "b"]`},
		{"up a b", 2, "toe: up: which card? want at most one NAME"},
		{"rm", 2, "toe: rm: which card? want one NAME, got 0"},
		{"ls extra", 2, `toe: ls: unexpected argument "extra": want none`},
		{"status UPPER", 2, "lower-case letters"},
		{"apply", 2, "which specification? -f card.yaml"},
		{"exec", 2, "which command?"},
		{"ssh --timeout 0s -- true", 2, "--timeout 0s: want more than 0"},
		{"ssh --timeout 5 -- true", 2, `--timeout: "5": want a time, such as 30s or 2m`},
		{"exec ls -l", 2, "the command to run comes after --"},
		{"exec a b -- ls", 2, "the command comes after --"},
		{"up one -f " + named, 2, "the card is called one on the command line and other in"},
		{"status nosuch", 1, "card nosuch: no such card; `toe up nosuch` makes it"},
		{"up -f " + bad, 1, bad + `:1: unknown key "nmae"; did you mean "name"?`},
		{"up -f /no/such/file", 1, "/no/such/file"},
		{"up -f /", 1, "toe: read /: is a directory"},
		{"up astray -f " + astray, 1, "toe: port wan: attach bridge:nosuch0: "},
		{"rm astray", 1, "no such card"}, // up has not made it
		{"exec nosuch -- true", 1, "no such card"},
		{"exec -- no-such-program", 127, ""},
		{"console nosuch", 1, "no such card"},
		{"logs nosuch", 1, "no such card"},
		{"down nosuch", 1, "no such card"},
		{"rm nosuch", 1, "no such card"},
		{"run nosuch", 1, "no such card"},
	} {
		status, _, errs := toe(t, strings.Fields(c.args)...)
		if status != c.status || !strings.Contains(errs, c.says) {
			t.Errorf("toe %s: status %d, want %d\nsaid %q\nwant %q", c.args, status, c.status, errs, c.says)
		}
	}
}

func TestStoppedCard(t *testing.T) {
	ownFolders(t)
	dirs, err := store.DefaultDirs()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dirs.Create(spec.Default("edge"), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if status, out, _ := toe(t, "status", "edge"); status != 0 || !strings.HasPrefix(out, "edge is stopped") {
		t.Errorf("status: %d %q", status, out)
	}
	if status, out, _ := toe(t, "ls"); status != 0 || !strings.Contains(out, "edge  stopped") {
		t.Errorf("ls: %d %q", status, out)
	}
	if status, _, errs := toe(t, "status", "egde"); status != 1 || !strings.Contains(errs, `did you mean "edge"?`) {
		t.Errorf("a name with a typing error: %d %q", status, errs)
	}
	if status, out, _ := toe(t, "down", "edge"); status != 0 || out != "edge is down already\n" {
		t.Errorf("down twice: %d %q", status, out)
	}
	if err := os.WriteFile(dirs.Card("edge").Last(), []byte(`{"state":"failed","reasons":["booting: x"]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out, _ := toe(t, "down", "edge"); status != 0 || out != "edge is down already\n" {
		t.Errorf("down after a start that failed: %d %q", status, out)
	}
	for _, verb := range []string{"ssh", "logs", "console", "reset"} {
		if status, _, errs := toe(t, verb, "edge"); status != 1 || !strings.Contains(errs, "not running; `toe up edge` starts it") {
			t.Errorf("%s of a stopped card: %d %q", verb, status, errs)
		}
	}
	if status, out, _ := toe(t, "rm", "edge"); status != 0 || out != "edge is deleted\n" {
		t.Errorf("rm: %d %q", status, out)
	}
}

// Everything that prints for people prints for programs, too.
func TestJSONEverywhere(t *testing.T) {
	root := rootCmd()
	for _, verb := range []string{"up", "down", "reset", "rm", "ls", "status", "logs", "apply", "doctor", "version", "firmware build", "firmware status"} {
		cmd, _, err := root.Find(strings.Fields(verb))
		if err != nil || cmd.Flags().Lookup("json") == nil {
			t.Errorf("toe %s has no --json (%v)", verb, err)
		}
	}
}

func TestOutcomesForPrograms(t *testing.T) {
	ownFolders(t)
	dirs, err := store.DefaultDirs()
	if err != nil {
		t.Fatal(err)
	}
	c, err := dirs.Create(spec.Default("edge"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	says := func(want outcome, args ...string) {
		t.Helper()
		status, out, errs := toe(t, append(args, "edge", "--json")...)
		var got outcome
		if err := json.Unmarshal([]byte(out), &got); err != nil || status != 0 || got != want {
			t.Errorf("toe %v: %d %q %s (%v), want %+v", args, status, out, errs, err, want)
		}
	}
	says(outcome{"edge", status.Stopped, "is down already"}, "down")
	release := hold(t, c)
	says(outcome{"edge", status.Starting, "is running, and stays up"}, "down", "--dead")
	release()
	killed := `{"state":"running","supervisor_pid":1}`
	if err := os.WriteFile(c.Paths.Last(), []byte(killed), 0o600); err != nil {
		t.Fatal(err)
	}
	says(outcome{"edge", status.Stopped, "was dead; cleaned up after it"}, "down", "--dead")
	says(outcome{"edge", "", "is deleted"}, "rm")
}

// hold takes the card's lock, as its supervisor does.
func hold(t *testing.T, c *store.Card) (release func()) {
	if err := c.Paths.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(c.Paths.Lock())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { f.Close() }
}

func TestEveryVerbIsDescribed(t *testing.T) {
	for _, cmd := range rootCmd().Commands() {
		if !cmd.Hidden && (cmd.Short == "" || cmd.RunE == nil && !cmd.HasSubCommands()) {
			t.Errorf("toe %s: short %q", cmd.Name(), cmd.Short)
		}
	}
}

func TestManAndCompletion(t *testing.T) {
	dir := t.TempDir()
	if status, _, errs := toe(t, "man", dir); status != 0 {
		t.Fatal(errs)
	}
	for _, page := range []string{"toe.1", "toe-up.1", "toe-exec.1"} {
		if fi, err := os.Stat(filepath.Join(dir, page)); err != nil || fi.Size() == 0 {
			t.Errorf("%s: %v", page, err)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if status, out, errs := toe(t, "completion", shell); status != 0 || !strings.Contains(out, "toe") {
			t.Errorf("%s: %d %s", shell, status, errs)
		}
	}
}

func TestQuote(t *testing.T) {
	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"uname", "-a"}, "uname -a"},
		{[]string{"echo a; echo b"}, "echo a; echo b"},
		{[]string{"echo", "a b", "", "it's", "$x"}, `echo 'a b' '' 'it'\''s' '$x'`},
	} {
		if got := quote(c.words); got != c.want {
			t.Errorf("%q: %s, want %s", c.words, got, c.want)
		}
	}
}

func TestSignalsThatArePassedOn(t *testing.T) {
	for _, c := range []struct {
		sig      syscall.Signal
		terminal bool
		want     bool
	}{
		{syscall.SIGTERM, true, true}, {syscall.SIGTERM, false, true}, {syscall.SIGHUP, true, true},
		{syscall.SIGINT, true, false}, // the terminal has sent it to the command as well
		{syscall.SIGINT, false, true}, {syscall.SIGUSR1, true, true},
	} {
		if got := passOn(c.sig, c.terminal); got != c.want {
			t.Errorf("%v, terminal %v: %v", c.sig, c.terminal, got)
		}
	}
}

func TestConsoleEndsAtItsKey(t *testing.T) {
	var sent bytes.Buffer
	if left := typeOn(&sent, strings.NewReader("ls\r\x1drm -rf\r")); !left || sent.String() != "ls\r" {
		t.Errorf("left %v, sent %q", left, sent.String())
	}
	sent.Reset()
	if left := typeOn(&sent, strings.NewReader("ls\r")); left || sent.String() != "ls\r" {
		t.Errorf("at the input's end: left %v, sent %q", left, sent.String())
	}
}

// What a card says of itself is printed, and does not act on the terminal.
func TestStatusIsFitForATerminal(t *testing.T) {
	var out strings.Builder
	printStatus(&out, status.Status{Name: "x", Reasons: []string{"wan: \x1b]52;c;bHM=\x07"}, Ports: []status.Port{{Name: "wan", Addresses: []string{"\x9b2J\u009b2J"}}}})
	if strings.ContainsAny(out.String(), "\x1b\x07\u009b") || !strings.Contains(out.String(), "wan: ?]52;c;bHM=?") {
		t.Errorf("printed %q", out.String())
	}
}

func TestDoctorPrintsTheFix(t *testing.T) {
	var b bytes.Buffer
	printChecks(&b, []doctor.Result{{Name: "tun", State: doctor.Fail, Detail: "gone", Fix: "sudo modprobe tun"}, {Name: "kvm", State: doctor.Skip, Detail: "none"}})
	if got := b.String(); !strings.Contains(got, "fail  tun") || !strings.Contains(got, "fix: sudo modprobe tun") || !strings.Contains(got, "skip  kvm") {
		t.Errorf("%s", got)
	}
	if !doctor.Failed([]doctor.Result{{State: doctor.Fail}}) || doctor.Failed([]doctor.Result{{State: doctor.Warn}}) {
		t.Error("Failed is wrong")
	}
}

// A runtime folder whose path is too long for a socket does not keep a card
// from being shown, taken down and deleted, and up makes none there.
func TestRuntimePathThatIsTooLong(t *testing.T) {
	ownFolders(t)
	dirs, err := store.DefaultDirs()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dirs.Create(spec.Default("edge"), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TOE_RUNTIME_DIR", filepath.Join(t.TempDir(), strings.Repeat("x", 100)))
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"up new", 1, "set TOE_RUNTIME_DIR to a shorter one"},
		{"rm new", 1, "no such card"},
		{"up edge", 1, "set TOE_RUNTIME_DIR to a shorter one"},
		{"exec edge -- true", 1, "the card is not running"},
		{"status edge", 0, "edge is stopped"},
		{"down --dead edge", 0, "edge is down already"},
		{"down edge", 0, "edge is down already"},
		{"status edge", 0, "edge is stopped"},
		{"rm -f edge", 0, "edge is deleted"},
	} {
		status, out, errs := toe(t, strings.Fields(c.args)...)
		if status != c.status || !strings.Contains(out+errs, c.says) {
			t.Errorf("toe %s: status %d, said %q, want %d and %q", c.args, status, out+errs, c.status, c.says)
		}
	}
}

// A degraded card is told first, with its reasons, and by the exit status.
func TestDegradedHasAStatusOfItsOwn(t *testing.T) {
	var out bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetErr(&out)
	err := warnDegraded(cmd, status.Status{Name: "edge", State: status.Degraded, Reasons: []string{"port wan: no lease"}})
	if err != cli.Exit(3) || out.String() != "toe: card edge is up but degraded: port wan: no lease\n" {
		t.Errorf("%v, said %q", err, out.String())
	}
	if err := warnDegraded(cmd, status.Status{State: status.Healthy}); err != nil {
		t.Errorf("a healthy card: %v", err)
	}
	if long := upCmd().Long; !strings.Contains(long, "3  the card is up but degraded") {
		t.Errorf("the help does not say so: %s", long)
	}
}
