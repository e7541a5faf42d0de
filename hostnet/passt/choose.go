package passt

import (
	"context"
	"errors"
	"fmt"

	"github.com/toe-project/toe/internal/progress"
)

// Choose returns a passt that passes the self-test: the host's own, else the
// one of a newer Debian release, fetched now where the cache has none. It never
// returns a faulty one. The error is ErrMissing where the host has none and none
// can be fetched.
func Choose(ctx context.Context, cache string, p *progress.Progress) (Program, error) {
	return choose(ctx, cache, p, true)
}

// Find is Choose without the network.
func Find(ctx context.Context, cache string) (Program, error) {
	return choose(ctx, cache, nil, false)
}

func choose(ctx context.Context, cache string, p *progress.Progress, network bool) (Program, error) {
	own, why := installed()
	if why == nil {
		if why = Probe(ctx, cache, own); why == nil {
			return own, nil
		}
		if !errors.Is(why, ErrFaulty) {
			return Program{}, untested(own, why)
		}
		why = fmt.Errorf("%s is faulty (%w)", own.Path(), why)
	}
	other, err := Fetched(cache)
	if err != nil && network {
		other, err = fetch(ctx, cache, why, p)
	}
	if err != nil {
		return Program{}, fmt.Errorf("%w; another cannot be had: %w\n%s", why, err, remedy)
	}
	if err := Probe(ctx, cache, other); err != nil {
		if !errors.Is(err, ErrFaulty) {
			return Program{}, untested(other, err)
		}
		return Program{}, fmt.Errorf("%w; that of Debian %s is faulty, too: %w\n%s",
			why, suite, err, remedy)
	}
	other.Why = why.Error()
	return other, nil
}

// remedy is for a host without a good passt and without a way to fetch one.
const remedy = "fix: `toe firmware build` with the mirror in reach, or a newer passt in PATH, " +
	"or attach the port elsewhere (tap, bridge, macvtap)"

func untested(p Program, why error) error {
	return fmt.Errorf("%s is not used, because its self-test cannot run here: %w\n"+
		"fix: see what `toe doctor` says of namespaces and of /dev/net/tun", p.Path(), why)
}
