package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
)

// TestDefaultRoute tests link.default_route: the traffic of the host's own programs goes through
// the card, with DNS. When the card is down the host is as before, even after its supervisor was
// killed.
func TestDefaultRoute(t *testing.T) {
	j := newJourney(t, kinds[0])
	const uplink = "198.51.100.1"
	ip(t, "-n", j.netns, "link", "add", "name", "up0", "type", "veth", "peer", "name", "up1")
	for _, dev := range []string{"up0", "up1"} {
		ip(t, "-n", j.netns, "link", "set", dev, "up")
	}
	ip(t, "-n", j.netns, "addr", "add", "198.51.100.2/24", "dev", "up0")
	ip(t, "-n", j.netns, "route", "add", "default", "via", uplink)
	nameServer(t, j.netns, uplink)
	path := filepath.Join(j.dir, "card.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	j.spec(t, "card.yaml", "link: {default_route: true}\n"+string(text))
	before := j.network(t)
	if out, err := j.ask(t, worldAddr); err == nil {
		t.Fatalf("the world answers %q before there is a card", out)
	}
	for _, end := range []struct {
		name string
		end  func(*testing.T, status.Status)
	}{
		{"down", func(t *testing.T, _ status.Status) { j.run(t, quick, 0, "down") }},
		{"killed", func(t *testing.T, st status.Status) {
			kill(t, st.Supervisor.PID)
			j.gone(t, 5*time.Second)
			j.run(t, quick, 0, "down", "--dead")
		}},
	} {
		t.Run(end.name, func(t *testing.T) {
			j.run(t, j.kind.start, 0, "up", "-f", path)
			st := j.status(t, "card0")
			if st.State != status.Healthy {
				t.Fatalf("status: %s %v", st.State, st.Reasons)
			}
			for _, name := range []string{worldAddr, worldName} {
				if out, err := j.ask(t, name); err != nil || out != cardAddr {
					t.Errorf("http://%s/ was asked by %q (%v); want the card's %s", name, out, err, cardAddr)
				}
			}
			end.end(t, st)
			// The kernel removes a dead process's interface with a delay.
			until(t, 2*time.Second, "the host's network to be as before", func() error {
				if after := j.network(t); after != before {
					return fmt.Errorf("before:\n%s\nafterwards:\n%s", before, after)
				}
				return nil
			})
		})
	}
}

// network is the state that link.default_route must restore.
func (h *host) network(t *testing.T) string {
	t.Helper()
	resolv, err := os.ReadFile(filepath.Join("/etc/netns", h.netns, "resolv.conf"))
	if err != nil {
		t.Fatal(err)
	}
	all := []string{string(resolv)}
	for _, family := range []string{"-4", "-6"} {
		all = append(all, ip(t, "-n", h.netns, family, "rule"), ip(t, "-n", h.netns, family, "route", "show", "table", "main"))
	}
	return strings.Join(all, "\n")
}

// ask fetches a page of the world's web server from the host's own network.
func (j *journey) ask(t *testing.T, name string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), quick)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", "netns", "exec", j.netns, self, fmt.Sprintf("http://%s/", name))
	cmd.Env = append(os.Environ(), roleVariable+"=get")
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	return out.String(), err
}
