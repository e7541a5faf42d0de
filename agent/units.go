package agent

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/toe-project/toe/control"
)

// unitsPart reports units of systemd that failed, with the end of what they logged. A failed unit degrades
// the card. It decides nothing about a slot on trial: what has to run there is the administrator's to say,
// in a check of the data partition.
type unitsPart struct {
	idle
	*env
	output func(ctx context.Context, name string, args ...string) ([]byte, error)
	pace   func(failed int) time.Duration // until the next look

	mu    sync.Mutex
	units []reason
}

const (
	maxUnits  = 8 // failed units that are reported by name
	unitLines = 5 // last lines of each one's log
	unitLimit = time.Minute
)

func newUnitsPart(e *env) *unitsPart {
	p := &unitsPart{env: e, pace: func(failed int) time.Duration {
		if failed > 0 {
			return 5 * time.Second
		}
		return 20 * time.Second // a look takes the CPU for some 20 ms
	}}
	p.output = func(ctx context.Context, name string, args ...string) ([]byte, error) {
		return partOf[*installPart](e).output(ctx, name, args...)
	}
	return p
}

func (p *unitsPart) start(ctx context.Context) {
	if !p.opts.Service {
		return
	}
	p.spawn(func() {
		for sleep(ctx, p.pace(len(p.health()))) {
			p.look(ctx)
		}
	})
}

// look asks systemd once. Where it does not answer, as before it runs, what is known stays.
func (p *unitsPart) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, unitLimit)
	defer cancel()
	out, err := p.output(ctx, "systemctl", "list-units", "--failed", "--plain", "--no-legend", "--full")
	if err != nil {
		return
	}
	names := failedUnits(string(out))
	var found []reason
	for _, name := range names[:min(len(names), maxUnits)] {
		text := "failed"
		lines, err := p.output(ctx, "journalctl", "--unit="+name, fmt.Sprintf("--lines=%d", unitLines), "--output=cat", "--no-pager", "--quiet")
		if said := strings.TrimSpace(string(lines)); err == nil && said != "" {
			text += "; its log ends: " + clipLines(said)
		}
		found = append(found, reason{"unit " + name, degraded, text})
	}
	if more := len(names) - maxUnits; more > 0 {
		found = append(found, reason{"units", degraded, fmt.Sprintf("%d more failed; see `systemctl --failed` on the card", more)})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.units = found
}

// maxUnitLog bounds what a status has of a unit's log, in bytes.
const maxUnitLog = 2 << 10

// clipLines makes lines of a log fit for a status: one line.
func clipLines(text string) string {
	var out []string
	for line := range strings.Lines(text) {
		line = clean(strings.TrimRight(line, "\n"))
		out = append(out, line[:min(len(line), 200)])
	}
	text = strings.Join(out, control.LineBreak)
	return strings.ToValidUTF8(text[max(0, len(text)-maxUnitLog):], "?") // an entry of the journal may have many lines
}

// failedUnits reads what systemctl prints: the name is the first word of a line.
func failedUnits(text string) (names []string) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 4 && f[2] == "failed" {
			names = append(names, f[0])
		}
	}
	return names
}

func (p *unitsPart) health() []reason {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.units
}
