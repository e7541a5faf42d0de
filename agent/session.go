package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

const (
	shell      = "/bin/sh"
	maxEnv     = 64                     // variables a client may set
	hangUpTime = 5 * time.Second        // between SIGHUP and SIGKILL when the client is gone
	drainTime  = 300 * time.Millisecond // of silence, after a terminal's command has ended
)

// Requests of RFC 4254, section 6.
type (
	ptyRequest struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	windowChange struct{ Columns, Rows, Width, Height uint32 }
	envRequest   struct{ Name, Value string }
	execRequest  struct{ Command string }
	subsystem    struct{ Name string }
	signalName   struct{ Name string }
	exitStatus   struct{ Status uint32 }
	exitSignal   struct {
		Name    string
		Core    bool
		Message string
		Lang    string
	}
)

// signals by their names in RFC 4254, section 6.10.
var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP,
	"ILL": syscall.SIGILL, "INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE,
	"QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

var envName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
})

// session is one channel: one command or shell, with a terminal or without.
type session struct {
	ch    ssh.Channel
	procs *procs
	env   []string
	term  *ptyRequest

	cmd    *exec.Cmd
	master *os.File   // of the terminal, nil without
	pipes  []*os.File // to its input, from its output and errors; nil with a terminal
	ended  chan struct{}
}

func newSession(ch ssh.Channel, p *procs) *session {
	home := "/root"
	if unix.Access(home, unix.X_OK) != nil {
		home = "/" // rather a shell there than none
	}
	return &session{
		ch: ch, procs: p, ended: make(chan struct{}),
		env: []string{
			"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home, "USER=root", "LOGNAME=root", "SHELL=" + shell,
		},
	}
}

// run serves the channel until it and its command have ended. ctx ends with the
// connection.
func (s *session) run(ctx context.Context, requests <-chan *ssh.Request) {
	defer func() { _ = s.ch.Close() }()
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the client closed the channel: nothing reads the command's output
	for req := range requests {
		ok := s.request(req)
		if req.WantReply {
			_ = req.Reply(ok, nil)
		}
		if ok && starts(req.Type) {
			// After the reply: a command that exits at once must not close the
			// channel before its client knows that it was started.
			running.Go(func() {
				s.report(s.follow(ctx))
				_ = s.ch.Close() // ends the loop over the requests
			})
		}
	}
}

// starts reports whether a request of this type starts a command.
func starts(request string) bool {
	return request == "shell" || request == "exec" || request == "subsystem"
}

// request handles one request and says whether it was granted.
func (s *session) request(req *ssh.Request) bool {
	switch req.Type {
	case "env":
		return s.setEnv(req.Payload)
	case "pty-req":
		p := new(ptyRequest)
		if s.cmd != nil || s.term != nil || ssh.Unmarshal(req.Payload, p) != nil {
			return false
		}
		s.term = p
		return true
	case "shell", "exec", "subsystem":
		return s.cmd == nil && s.start(req)
	case "window-change":
		var w windowChange
		return s.master != nil && ssh.Unmarshal(req.Payload, &w) == nil &&
			resize(s.master, w.Columns, w.Rows) == nil
	case "signal":
		var n signalName
		if s.cmd == nil || ssh.Unmarshal(req.Payload, &n) != nil || signals[n.Name] == 0 {
			return false
		}
		return s.kill(signals[n.Name])
	}
	return false
}

// setEnv accepts what ssh clients send by default. The account is root's, so no
// variable gains a privilege; it refuses only malformed ones.
func (s *session) setEnv(payload []byte) bool {
	var e envRequest
	if s.cmd != nil || ssh.Unmarshal(payload, &e) != nil || len(s.env) >= maxEnv ||
		!envName().MatchString(e.Name) || strings.ContainsRune(e.Value, 0) {
		return false
	}
	s.env = append(s.env, e.Name+"="+e.Value)
	return true
}

// kill signals the command's whole process group, while it lives.
func (s *session) kill(sig syscall.Signal) bool {
	select {
	case <-s.ended:
		return false
	default:
		return syscall.Kill(-s.cmd.Process.Pid, sig) == nil
	}
}

// start starts the command of a request.
func (s *session) start(req *ssh.Request) bool {
	cmd := &exec.Cmd{Path: shell, Args: []string{"-sh"}, Dir: "/"}
	switch req.Type {
	case "exec":
		var e execRequest
		if ssh.Unmarshal(req.Payload, &e) != nil || strings.ContainsRune(e.Command, 0) {
			return false
		}
		cmd.Args = []string{"sh", "-c", e.Command}
	case "subsystem":
		var sub subsystem
		if ssh.Unmarshal(req.Payload, &sub) != nil || sub.Name != "sftp" || s.term != nil {
			return false
		}
		cmd.Path, cmd.Args = "/proc/self/exe", []string{"toe-agent", SFTPVerb}
	}
	for _, e := range s.env {
		if dir, ok := strings.CutPrefix(e, "HOME="); ok {
			cmd.Dir = dir
		}
	}
	var err error
	if s.term != nil {
		err = s.startTerminal(cmd)
	} else {
		err = s.startPipes(cmd)
	}
	if err != nil {
		_, _ = io.WriteString(s.ch.Stderr(), "toe-agent: "+err.Error()+"\r\n")
		return false
	}
	return true
}

// report tells the client how the command ended.
func (s *session) report(err error) {
	var exit *exec.ExitError
	status := exitStatus{}
	if errors.As(err, &exit) {
		if w, ok := exit.Sys().(syscall.WaitStatus); ok && w.Signaled() {
			reply := exitSignal{Name: nameOf(w.Signal()), Core: w.CoreDump()}
			_, _ = s.ch.SendRequest("exit-signal", false, ssh.Marshal(reply))
			return
		}
		status.Status = uint32(exit.ExitCode())
	} else if err != nil {
		status.Status = 255
	}
	_, _ = s.ch.SendRequest("exit-status", false, ssh.Marshal(status))
}

func nameOf(sig syscall.Signal) string {
	for name, s := range signals {
		if s == sig {
			return name
		}
	}
	return sig.String()
}
