package bench

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// measureIdleConnections opens connections that then do nothing, in endpoint
// mode and in router mode: how fast, and what each costs of the card's memory.
func (b *offloadRun) measureIdleConnections(ctx context.Context) error {
	counts := []int{1000}
	if b.full {
		counts = append(counts, 10_000)
	}
	stage := b.Progress.Stage("idle connections", int64(b.Rounds*len(counts)*2))
	defer stage.Done("")
	for _, n := range counts {
		memory, rate := map[string][]float64{}, map[string][]float64{}
		for range b.Rounds {
			for _, w := range b.ways[:2] {
				stage.Note(fmt.Sprintf("%d, %s", n, w.name))
				m, r, err := b.idle(ctx, w, n)
				if err != nil {
					return fmt.Errorf("%d idle connections, %s: %w", n, w.name, err)
				}
				memory[w.name], rate[w.name] = append(memory[w.name], m), append(rate[w.name], r)
				stage.Add(1)
			}
		}
		own, other := b.ways[0].name, b.ways[1].name
		name := fmt.Sprintf("%s/idle/%d/", b.kind, n)
		b.add(name+"memory", "KiB/connection", memory[own]).lower(memory[other], other)
		b.add(name+"opening", "connections/s", rate[own]).higher(rate[other], other)
	}
	return nil
}

// idle opens n connections and closes them again.
func (b *offloadRun) idle(ctx context.Context, w *way, n int) (kib, rate float64, err error) {
	if err := w.prepare(ctx, plainWork); err != nil {
		return 0, 0, err
	}
	before, err := w.rig.available(ctx)
	if err != nil {
		return 0, 0, err
	}
	done, err := w.side.order(ctx, loadOrder{What: "open", Address: w.address(plainWork), Workers: 32, Count: n}, 2*time.Minute)
	if err != nil {
		return 0, 0, err
	}
	after, err := w.rig.available(ctx)
	if err != nil {
		return 0, 0, err
	}
	if _, err := w.side.order(ctx, loadOrder{What: "close"}, time.Minute); err != nil {
		return 0, 0, err
	}
	time.Sleep(time.Second) // the card forgets them
	return (before - after) / float64(n), done.Count / done.Seconds, ctx.Err()
}

// available is the card's MemAvailable, in KiB, when it has come to rest.
func (g *rig) available(ctx context.Context) (kib float64, err error) {
	time.Sleep(time.Second)
	text, err := g.login.command(ctx, "cat /proc/meminfo", strings.NewReader(""), 20*time.Second)
	if err != nil {
		return 0, err
	}
	return memAvailable(text)
}

func memAvailable(meminfo string) (kib float64, err error) {
	for line := range strings.Lines(meminfo) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
		}
	}
	return 0, fmt.Errorf("/proc/meminfo of the card without a line MemAvailable: %.100q", meminfo)
}
