package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/internal/privilege"
)

// Kinds lists the machines, best first: the order of auto.
type Kinds struct {
	Machines []Machine
	// Depends names the files that decide whether a kind works, such as the program and the device.
	// A kind is not probed again while they are unchanged and the host has not restarted.
	Depends func(Kind) []string
	Cache   string // folder for the results of probes
	For     string // the card's architecture if that is not the host's; a part of the results' names
}

// probeLimit bounds each probe.
const probeLimit = 20 * time.Second

// Choose returns the machine for machine.kind of card.yaml, and the reason. A kind that card.yaml
// names is not probed: its start reports what is wrong.
func (k Kinds) Choose(ctx context.Context, kind string) (Machine, string, error) {
	if kind != "auto" {
		for _, m := range k.Machines {
			if string(m.Kind()) == kind {
				return m, "asked for in card.yaml", nil
			}
		}
		return nil, "", fmt.Errorf("machine.kind %q: unknown", kind)
	}
	var why []string
	for _, m := range k.Machines {
		f, err := k.probe(ctx, m)
		if err != nil {
			return nil, "", err
		}
		if f.Works {
			why = append(why, fmt.Sprintf("%s works: %s", m.Kind(), f.How))
			return m, strings.Join(why, "; "), nil
		}
		why = append(why, fmt.Sprintf("not %s: %s", m.Kind(), f.How))
	}
	return nil, "", fmt.Errorf("no machine works here: %s; see `toe doctor`", strings.Join(why, "; "))
}

// finding is the result of a probe.
type finding struct {
	Works bool   `json:"works"`
	How   string `json:"how"`
	Key   string `json:"key"`
}

func (k Kinds) probe(ctx context.Context, m Machine) (finding, error) {
	path := filepath.Join(k.Cache, "probe-"+string(m.Kind())+k.suffix()+".json")
	key := k.key(m.Kind())
	var f finding
	if atomicfile.ReadJSON(path, &f) == nil && f.Key == key {
		return f, nil
	}
	pctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	how, err := m.Probe(pctx)
	if ctx.Err() != nil {
		return f, ctx.Err()
	}
	f = finding{Works: err == nil, How: how, Key: key}
	if err != nil {
		f.How = err.Error()
	}
	if m := privilege.Of(err); m != nil {
		return f, m // of this process, not of the host or of this kind
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return f, nil // the host may have been busy: try again next time
	}
	if os.MkdirAll(k.Cache, 0o755) == nil {
		atomicfile.Sweep(k.Cache)
		_ = atomicfile.WriteJSON(path, f) // only costs time when it fails
	}
	return f, nil
}

func (k Kinds) suffix() string {
	if k.For == "" {
		return ""
	}
	return "-" + k.For
}

// key changes when a probe may have another result.
func (k Kinds) key(kind Kind) string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	parts := []string{strings.TrimSpace(string(boot)), fmt.Sprint(os.Geteuid())}
	for _, path := range k.Depends(kind) {
		fi, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			parts = append(parts, path+" absent")
		case err != nil:
			parts = append(parts, err.Error())
		default:
			parts = append(parts, fmt.Sprintf("%s %d %s %s", path, fi.Size(), fi.Mode(), fi.ModTime().UTC().Format(time.RFC3339Nano)))
		}
	}
	return strings.Join(parts, "; ")
}
