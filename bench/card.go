package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/toe-project/toe/card"
)

const (
	cardName = "bench"
)

// testCard is a card of this run's own: without ports, in this namespace,
// with state in this run's folder, run by the very commands that people use.
type testCard struct {
	r      *run
	status card.Status
	serve  *exec.Cmd
	hangUp func() error
}

// toe runs a verb of this program. It ends with ctx, in good order.
func (r *run) toe(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, r.Program, args...)
	c.Args[0] = "toe"
	c.Env = append(os.Environ(), "TOE_STATE_DIR="+filepath.Join(r.dir, "state"),
		"TOE_RUNTIME_DIR="+filepath.Join(r.dir, "run"), "TOE_CACHE_DIR="+r.Cache)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 30 * time.Second
	return c
}

// output runs a verb and gives what it says; its complaint is in the error.
func (r *run) output(ctx context.Context, args ...string) ([]byte, error) {
	c := r.toe(ctx, args...)
	var out, complaint bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaint
	if err := c.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("toe %s: %w: %s", args[0], err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out.Bytes(), nil
}

// up starts the card and says how long the command took.
func (r *run) up(ctx context.Context) (*testCard, time.Duration, error) {
	file := filepath.Join(r.dir, "card.yaml")
	text := fmt.Sprintf("name: %s\nmachine:\n  kind: %s\nlink:\n  exec: false\nports: []\n", cardName, r.Machine)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, 0, err
	}
	start := time.Now()
	out, err := r.output(ctx, "up", "--json", "--quiet", "--file", file)
	took := time.Since(start)
	c := &testCard{r: r}
	if err == nil {
		err = json.Unmarshal(out, &c.status)
	}
	return c, took, err
}

// down takes the card down, also when the run was interrupted.
func (c *testCard) down() error {
	if c.hangUp != nil {
		c.hangUp()
		c.serve.Wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := c.r.output(ctx, "down", cardName)
	return err
}

// addr is where the far end of the traffic listens.
func (c *testCard) addr() string {
	for _, a := range c.status.Link.Card {
		if a.Is4() {
			return netip.AddrPortFrom(a, 5201).String()
		}
	}
	return ""
}

// listen starts the traffic program on the card.
func (c *testCard) listen(ctx context.Context) error {
	c.serve = c.r.toe(ctx, "ssh", cardName, "--", "/init", "bench-serve", c.addr())
	in, err := c.serve.StdinPipe()
	if err != nil {
		return err
	}
	out, err := c.serve.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.serve.Start(); err != nil {
		return err
	}
	c.hangUp = in.Close
	watchdog := time.AfterFunc(20*time.Second, func() { in.Close() })
	defer watchdog.Stop()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return fmt.Errorf("the traffic program on the card did not start: said %q: %w", line, err)
	}
	return nil
}

// dial opens a connection for a purpose: 'i', 'o' or 'e' (agent.BenchServe).
func (c *testCard) dial(ctx context.Context, mode byte) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", c.addr())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte{mode}); err != nil {
		conn.Close()
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}
