package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/toe-project/toe/internal/ethtool"
)

// OffloadPartVerb is the hidden verb of the program that becomes a part of
// RunOffload: in another namespace, or on the card.
const OffloadPartVerb = "bench-part"

// self is this program, which is a pump, a part of RunOffload, and a program on the card.
const self = "/proc/self/exe"

// OffloadPart runs that verb.
func OffloadPart(name string, in io.Reader, out io.Writer) error {
	part := map[string]func(io.Reader, io.Writer) error{
		"world": worldServe, "load": loadServe, "tunnel": tunnelServe, "state": stateSet, "card-tunnel": cardTunnel,
	}[name]
	if part == nil {
		return fmt.Errorf("no part is called %q", name)
	}
	return part(in, out)
}

// state is the configuration of a host or a card for a measurement.
type state struct {
	Firewall firewall        `json:"firewall"`
	Forward  []packets       `json:"forward,omitempty"` // of a card, in addition to its own firewall's rules
	TSO      map[string]bool `json:"tso,omitempty"`     // by device
}

// stateSet reads a state from standard input and applies it, on the card.
func stateSet(in io.Reader, _ io.Writer) error {
	var s state
	if err := json.NewDecoder(in).Decode(&s); err != nil {
		return fmt.Errorf("a state on standard input: %w", err)
	}
	if err := s.set(); err != nil {
		return err
	}
	return letThrough(s.Forward)
}

func (s state) set() error {
	for name, on := range s.TSO {
		if err := ethtool.SetTSO(name, on); err != nil {
			return err
		}
	}
	return replaceRules(s.Firewall, s.Forward)
}

func cardTunnel(in io.Reader, _ io.Writer) error {
	var end tunnelEnd
	if err := json.NewDecoder(in).Decode(&end); err != nil {
		return fmt.Errorf("a tunnel on standard input: %w", err)
	}
	return end.inKernel()
}

// helper is a part that runs on this host, in a namespace.
type helper struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	words *lastLines
	ended chan struct{}
}

// startHelper starts a part on the namespace's thread and sends it its first line. If the part
// reports that it is ready, startHelper waits for that.
func (r *run) startHelper(ns *nsThread, part string, first any, says bool) (*helper, error) {
	h := &helper{name: part, words: &lastLines{}, ended: make(chan struct{})}
	h.cmd = exec.Command(self, OffloadPartVerb, part)
	h.cmd.Args[0] = "toe-bench"
	h.cmd.Stderr = h.words
	// A group of its own: Ctrl-C is this program's to act on.
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := h.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := ns.do(h.cmd.Start); err != nil {
		return nil, fmt.Errorf("part %s: %w", part, err)
	}
	h.in, h.out = in, bufio.NewReader(out)
	go func() { _ = h.cmd.Wait(); close(h.ended) }()
	if err := h.begin(first, says); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func (h *helper) begin(first any, says bool) error {
	if first != nil {
		if err := json.NewEncoder(h.in).Encode(first); err != nil {
			return fmt.Errorf("part %s: %w: %s", h.name, err, h.words)
		}
	}
	if !says {
		return nil
	}
	_, err := h.line(context.Background(), 20*time.Second)
	return err
}

// line reads a line of the part's output.
func (h *helper) line(ctx context.Context, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = h.cmd.Process.Kill() })
	defer stop()
	b, err := h.out.ReadBytes('\n')
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("part %s said nothing: %w", h.name, ctx.Err())
		}
		return nil, fmt.Errorf("part %s ended: %s", h.name, h.words)
	}
	return b, nil
}

// close ends the part: by the end of its input, otherwise by a signal.
func (h *helper) close() error {
	h.in.Close()
	select {
	case <-h.ended:
	case <-time.After(3 * time.Second):
		_ = h.cmd.Process.Kill()
		<-h.ended
	}
	return nil
}

func (h *helper) spent() spent { return process(h.cmd.Process.Pid) }

// onCard runs a part on the card, with its orders as JSON on standard input.
func (l *login) onCard(ctx context.Context, part string, order any) error {
	b, err := json.Marshal(order)
	if err != nil {
		return err
	}
	_, err = l.command(ctx, cardProgram+" "+OffloadPartVerb+" "+part, bytes.NewReader(b), 30*time.Second)
	return err
}

// cardProgram is where this program is on the card.
const cardProgram = "/tmp/toe-bench"

// upload puts this program on the card, in its memory.
func (l *login) upload(ctx context.Context, program io.Reader) error {
	_, err := l.command(ctx, "cat > "+cardProgram+" && chmod 755 "+cardProgram, program, 2*time.Minute)
	return err
}

// command runs a command on the card and returns its output.
func (l *login) command(ctx context.Context, line string, in io.Reader, limit time.Duration) (string, error) {
	s, err := l.client.NewSession()
	if err != nil {
		return "", err
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	var out, complaint strings.Builder
	s.Stdin, s.Stdout, s.Stderr = in, &out, &complaint
	if err := s.Run(line); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", fmt.Errorf("on the card, %s: %w: %s", line, err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}
