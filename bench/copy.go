package bench

import (
	"context"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// measureCopy copies 64 KiB at a time from one stretch of 256 MiB to another: none of it is in a
// cache. This is the unit of a link's cost.
func measureCopy(ctx context.Context, r *run) error {
	const chunk, area = 64 << 10, 256 << 20
	stage := r.Progress.Stage("cold copy of 64 KiB", int64(r.Rounds))
	defer stage.Done("")
	mem, err := unix.Mmap(-1, 0, 2*area, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("mmap of %d bytes: %w", 2*area, err)
	}
	defer unix.Munmap(mem)
	for i := 0; i < len(mem); i += 4096 {
		mem[i] = 1
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var rounds []float64
	for range r.Rounds {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		start := threadTime()
		for at := 0; at < area; at += chunk {
			copy(mem[area+at:area+at+chunk], mem[at:at+chunk])
		}
		rounds = append(rounds, (threadTime()-start).Seconds()*(1<<30)/area)
		stage.Add(1)
	}
	r.add("copy/64KiB-cold", "s/GiB", rounds)
	return nil
}
