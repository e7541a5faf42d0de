package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
)

// testCard is a card of this run: without ports, in this namespace, with state in this run's
// folder, run by the commands that users type.
type testCard struct {
	r      *run
	name   string
	status status.Status
	card   *store.Card
}

func (r *run) dirs() store.Dirs {
	return store.Dirs{State: filepath.Join(r.dir, "state"), Runtime: filepath.Join(r.dir, "run"), Cache: r.Cache}
}

// toe runs a verb of the program toe. When ctx ends, the verb ends cleanly.
func (r *run) toe(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, r.Toe, args...)
	c.Args[0] = "toe"
	d := r.dirs()
	c.Env = append(os.Environ(), "TOE_STATE_DIR="+d.State, "TOE_RUNTIME_DIR="+d.Runtime, "TOE_CACHE_DIR="+d.Cache)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 30 * time.Second
	return c
}

// output runs a verb and returns its output. Its standard error is in the error.
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

// up starts a card and says how long the command took. A start that failed or
// was interrupted leaves nothing running.
// It has a link and nothing else.
func (r *run) up(ctx context.Context, name, kind string) (*testCard, time.Duration, error) {
	return r.upWith(ctx, name, kind, "link:\n  exec: false\nports: []\n")
}

// upWith is up with more lines of card.yaml.
func (r *run) upWith(ctx context.Context, name, kind, more string) (*testCard, time.Duration, error) {
	file := filepath.Join(r.dir, name+".yaml")
	text := fmt.Sprintf("name: %s\nmachine:\n  kind: %s\n%s", name, kind, more)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, 0, err
	}
	start := time.Now()
	out, err := r.output(ctx, "up", "--json", "--quiet", "--file", file)
	took := time.Since(start)
	c := &testCard{r: r, name: name}
	if err == nil {
		err = json.Unmarshal(out, &c.status)
	}
	if err == nil {
		c.card, err = r.dirs().Open(name)
	}
	if err != nil {
		return nil, took, errors.Join(err, c.down())
	}
	return c, took, nil
}

// down takes the card down, also when the run was interrupted.
func (c *testCard) down() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := os.Stat(c.r.dirs().Card(c.name).Spec()); err != nil {
		return nil // it does not exist
	}
	_, err := c.r.output(ctx, "down", c.name)
	return err
}

// cardAddr and hostAddr are the IPv4 addresses of the link's two ends.
func (c *testCard) cardAddr() netip.Addr { return first4(c.status.Link.Card) }
func (c *testCard) hostAddr() netip.Addr { return first4(c.status.Link.Host) }

func first4(all []netip.Addr) netip.Addr {
	for _, a := range all {
		if a.Is4() {
			return a
		}
	}
	return netip.Addr{}
}
