package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/hostnet"
	"github.com/toe-project/toe/internal/cli"
	"github.com/toe-project/toe/internal/progress"
	"github.com/toe-project/toe/internal/tail"
)

type upOptions struct {
	file   string
	asJSON bool
	quiet  bool
}

func upCmd() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up [NAME]",
		Short: "Create a card and start it; return when it is healthy",
		Long: `Up creates the card where it does not exist, builds its firmware where the cache
has none, starts it in the background, and returns when it is healthy. It changes
nothing of a card that is up.

EXIT STATUS
  0  the card is healthy
  1  the card did not start
  2  the command line is wrong
  3  the card is up but degraded: standard error says why
  130  interrupted; a card that was being started is down again`,
		Example:           "  toe up\n  toe up edge -f card.yaml",
		Args:              atMostOneName,
		ValidArgsFunction: completeCards,
		RunE:              func(cmd *cobra.Command, args []string) error { return up(cmd, args, o) },
	}
	cmd.Flags().StringVarP(&o.file, "file", "f", "", "the card's specification (card.yaml)")
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print the card's status as JSON when it is up")
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	return cmd
}

func up(cmd *cobra.Command, args []string, o upOptions) error {
	var p *progress.Progress
	if !o.quiet {
		p = progress.New(cmd.ErrOrStderr())
	}
	c, err := prepareCard(args, o.file)
	if err != nil {
		return err
	}
	st, err := bringUp(cmd.Context(), c, p, nil)
	if err != nil {
		return err
	}
	err = warnDegraded(cmd, st)
	if o.asJSON {
		return errors.Join(err, cli.JSON(cmd.OutOrStdout(), st))
	}
	compareAgent(&st)
	printUp(cmd.OutOrStdout(), c, st)
	return err
}

// exitDegraded is the status of up for a card that runs, but not well.
const exitDegraded = 3

// warnDegraded prints that a card is degraded, and why, before its status. The
// error is the exit status then.
func warnDegraded(cmd *cobra.Command, st status.Status) error {
	if st.State != status.Degraded {
		return nil
	}
	out := cli.Visible{Writer: cmd.ErrOrStderr()}
	fmt.Fprintf(out, "toe: card %s is up but degraded: %s\n", st.Name, strings.Join(st.Reasons, "; "))
	return cli.Exit(exitDegraded)
}

// prepareCard finds or makes the card that up was asked for.
func prepareCard(args []string, file string) (*store.Card, error) {
	dirs, err := store.DefaultDirs()
	if err != nil {
		return nil, err
	}
	want, name := spec.Default(""), nameArg(args)
	if file != "" {
		if want, err = spec.Load(file); err != nil {
			return nil, err
		}
		if len(args) == 0 && want.Name != "" {
			name = want.Name
		}
		if want.Name != "" && want.Name != name {
			return nil, cli.Usagef("the card is called %s on the command line and %s in %s", name, want.Name, file)
		}
	}
	if err := spec.CheckName(name); err != nil {
		return nil, cli.Usage{Err: err}
	}
	want.Name = name
	c, err := dirs.Open(name)
	if errors.Is(err, store.ErrNoCard) {
		if err := errors.Join(dirs.Card(name).CheckSockets(), hostnet.Check(want)); err != nil {
			return nil, err
		}
		return dirs.Create(want, store.Home())
	}
	if err != nil || file == "" {
		return c, err
	}
	return c, c.Replace(want)
}

// bringUp starts the card where it is not running, and waits until it is
// ready. With alive the card ends when the other end of that pipe does.
func bringUp(
	ctx context.Context, c *store.Card, p *progress.Progress, alive *os.File,
) (status.Status, error) {
	st, err := client.New(c).Status(ctx, 0)
	if err == nil {
		return await(ctx, c, p, nil, st)
	}
	if !errors.Is(err, client.ErrNotRunning) {
		return st, err
	}
	if err := errors.Join(c.Paths.CheckSockets(), hostnet.Check(c.Spec)); err != nil {
		return st, fmt.Errorf("card %s: %w", c.Name, err)
	}
	if err := buildFirst(ctx, c, p); err != nil {
		return st, err
	}
	s, err := startSupervisor(ctx, c, alive)
	if err != nil && ctx.Err() == nil && c.Running() {
		if st, err = awaitOther(ctx, c); err == nil {
			return await(ctx, c, p, nil, st)
		}
	}
	if err != nil {
		return st, err
	}
	st, err = await(ctx, c, p, s, status.Status{})
	if err != nil && ctx.Err() != nil {
		stage := p.Stage("interrupted, taking the card down", 0)
		s.end()
		stage.Done("")
		return st, ctx.Err()
	}
	return st, err
}

// awaitOther is for a card that another command starts at the same moment: it
// waits until that supervisor can be asked.
func awaitOther(ctx context.Context, c *store.Card) (status.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		st, err := client.New(c).Status(ctx, 0)
		if !errors.Is(err, client.ErrNotRunning) || !c.Running() {
			return st, err
		}
		select {
		case <-ctx.Done():
			return st, fmt.Errorf("card %s: waiting for the supervisor that was started beside this command: %w", c.Name, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// buildFirst builds missing firmware here, where its progress can be seen;
// the supervisor then finds it in the cache.
func buildFirst(ctx context.Context, c *store.Card, p *progress.Progress) error {
	a := c.Spec.Row()
	m, _, err := machines(c.Paths.Cache, c.Name, a).Choose(ctx, c.Spec.Machine.Kind)
	if err != nil {
		return err
	}
	if _, err := image(ctx, c.Paths.Cache, c.Spec.Firmware.Edition, m.Kind(), a, p); err != nil {
		return fmt.Errorf("firmware: %w", err)
	}
	return testPasst(ctx, c.Paths.Cache, c.Spec, p)
}

// runner is a `toe run` that was started here.
type runner struct {
	cmd   *exec.Cmd
	ended chan struct{}
}

func openSupervisorLog(c *store.Card) (*os.File, error) {
	if err := c.Paths.MakeRuntime(); err != nil {
		return nil, err
	}
	return os.OpenFile(c.Paths.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// startSupervisor starts `toe run` in the background and returns when its
// socket can be asked, or with the reason why it ended.
func startSupervisor(ctx context.Context, c *store.Card, alive *os.File) (*runner, error) {
	logFile, err := openSupervisorLog(c)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", "run", "--ready-fd=3")
	cmd.Args[0] = "toe"
	cmd.ExtraFiles = []*os.File{w}
	if alive != nil {
		cmd.Args = append(cmd.Args, "--alive-fd=4")
		cmd.ExtraFiles = append(cmd.ExtraFiles, alive)
	}
	cmd.Args = append(cmd.Args, c.Name)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, fmt.Errorf("start the supervisor: %w", err)
	}
	s := &runner{cmd: cmd, ended: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(s.ended) }()
	return s, s.awaitSocket(ctx, c, r)
}

func (s *runner) awaitSocket(ctx context.Context, c *store.Card, r *os.File) error {
	said := make(chan bool, 1)
	go func() {
		n, _ := r.Read(make([]byte, 16))
		said <- n > 0
	}()
	select {
	case ok := <-said:
		if ok {
			return nil
		}
		<-s.ended
		return fmt.Errorf("the supervisor ended at once: %s", lastLine(c.Paths.Log()))
	case <-ctx.Done():
		s.end()
		return ctx.Err()
	}
}

// lastLine is the last thing in the supervisor's log.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > 4096 {
		_, _ = f.Seek(-4096, io.SeekEnd)
	}
	data, _ := io.ReadAll(f)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.TrimPrefix(lines[len(lines)-1], "toe: ")
}

// end makes the supervisor take everything down, and waits for that.
func (s *runner) end() {
	const patience = 20 * time.Second
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		<-s.ended
	}
}

// await shows the stages of a start until the card is ready or has failed.
func await(
	ctx context.Context, c *store.Card, p *progress.Progress, s *runner, st status.Status,
) (status.Status, error) {
	var stage *progress.Stage
	shown := ""
	for {
		if st.State == status.Healthy || st.State == status.Degraded {
			stage.Done("")
			return st, nil
		}
		// A start that has failed is taken down: its last stage is what failed.
		if st.Stage != "" && st.Stage != shown && (st.State == status.Starting || shown == "") {
			stage, shown = p.Stage(st.Stage, 0), st.Stage
		}
		next, err := client.New(c).Status(ctx, st.Sequence)
		if err == nil {
			st = next
			continue
		}
		if ctx.Err() != nil {
			stage.Fail(ctx.Err())
			return st, ctx.Err()
		}
		err = whyNot(ctx, c, err)
		stage.Fail(err)
		return st, err
	}
}

// whyNot returns why the supervisor ended before the card was ready.
func whyNot(ctx context.Context, c *store.Card, err error) error {
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if client.AwaitEnd(end, c) != nil {
		return err
	}
	st, serr := client.Status(end, c)
	if serr != nil {
		return errors.Join(err, serr)
	}
	if st.State == status.Stopped && len(st.Reasons) == 0 {
		return fmt.Errorf("card %s was taken down by another command before it was ready", c.Name)
	}
	text := fmt.Sprintf("card %s did not start", c.Name)
	for _, r := range st.Reasons {
		text += "\n  " + strings.ReplaceAll(r, "\n", "\n  ")
	}
	if console := c.Paths.ConsoleTail(); console != "" {
		text += "\nthe end of its console (" + c.Paths.ConsoleLog() + "):\n  " + strings.ReplaceAll(console, "\n", "\n  ")
	}
	return errors.New(tail.Visible(text, "\n\t") + "\nthe supervisor's log is " + c.Paths.Log())
}
