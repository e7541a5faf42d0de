package agent

import (
	"container/list"
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	dnsPort = 53
	// dnsAtOnce bounds the questions under way. One more ends the oldest.
	dnsAtOnce = 512
	dnsPerAsk = 3 // servers asked for one question, as many as the C library asks
)

// forwarder answers the host's DNS queries by asking the name servers that the
// card knows. It relays messages and keeps no answer; the servers do.
type forwarder struct {
	log       *Log
	upstreams atomic.Pointer[[]*upstream] // in order of preference

	mu      sync.Mutex // guards what follows
	asking  list.List  // context.CancelFunc of the questions under way, the oldest first
	unheard unheard
}

// unheard are the questions that no server has answered, since one did: how many,
// and when the first and the last of them were given up.
type unheard struct {
	n           int
	first, last time.Time
}

const (
	// dnsSilence is how long at least dnsUnheard queries must have gone without an
	// answer before the card reports that its name servers are silent.
	dnsSilence = 30 * time.Second
	dnsUnheard = 3
	// dnsForgets: the fault that the last question met may be over.
	dnsForgets = 5 * time.Minute
)

// heard notes whether a query has been answered.
func (f *forwarder) heard(answered bool, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if answered {
		f.unheard = unheard{}
		return
	}
	if f.unheard.n == 0 {
		f.unheard.first = now
	}
	f.unheard.n++
	f.unheard.last = now
}

// silent is for how long no server has answered, or 0.
func (f *forwarder) silent(now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	u := f.unheard
	if d := u.last.Sub(u.first); u.n >= dnsUnheard && d >= dnsSilence && now.Sub(u.last) < dnsForgets {
		return d
	}
	return 0
}

func newForwarder(log *Log) *forwarder {
	f := &forwarder{log: log}
	f.upstreams.Store(new([]*upstream))
	return f
}

// set replaces the upstreams, in order of preference. What is known of those
// that stay is kept.
func (f *forwarder) set(servers []netip.Addr) {
	before := *f.upstreams.Load()
	next := make([]*upstream, 0, len(servers))
	for _, s := range servers {
		at := netip.AddrPortFrom(s, dnsPort)
		if i := slices.IndexFunc(before, func(u *upstream) bool { return u.addr == at }); i >= 0 {
			next = append(next, before[i])
		} else {
			next = append(next, &upstream{addr: at})
		}
	}
	f.upstreams.Store(&next)
	if !slices.Equal(before, next) {
		f.heard(true, time.Time{}) // nothing is known of the new ones
	}
}

// answer gives reply the answer to a query, now or later, once.
func (f *forwarder) answer(ctx context.Context, q *query, err error, size int, reply func([]byte)) {
	switch {
	case errors.Is(err, errFormat):
		reply(q.refusal(rcodeFormErr))
	case errors.Is(err, errQuestion):
		reply(q.refusal(rcodeNotImp))
	case err != nil:
		reply(q.refusal(rcodeRefused))
	default:
		ctx, leave := f.enter(ctx)
		go func() {
			defer leave()
			answer := f.ask(ctx, q)
			if answer == nil {
				reply(q.refusal(rcodeServFail))
				return
			}
			reply(q.reply(answer, size))
		}()
	}
}

// enter adds a question to those under way. When there are too many it ends
// the oldest: that is the one whose answer is the least likely to come, and
// questions that do get answers are not held up by those that do not.
func (f *forwarder) enter(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithTimeout(ctx, dnsPatience)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asking.Len() >= dnsAtOnce {
		oldest := f.asking.Front()
		f.asking.Remove(oldest).(context.CancelFunc)()
	}
	place := f.asking.PushBack(cancel)
	return ctx, func() {
		f.mu.Lock()
		f.asking.Remove(place) // or it has been removed
		f.mu.Unlock()
		cancel()
	}
}

// order lists the servers for a question: by preference, the silent ones last.
func (f *forwarder) order() []*upstream {
	var order, silent []*upstream
	for _, u := range *f.upstreams.Load() {
		if u.isSilent() {
			silent = append(silent, u)
		} else {
			order = append(order, u)
		}
	}
	order = append(order, silent...)
	return order[:min(len(order), dnsPerAsk)]
}

// said is what a server answered to a question.
type said struct {
	server int
	answer []byte
	err    error
}

// ask asks the servers one after the other, each when those before it have
// failed or been silent for dnsStagger, and waits for all. It returns the first
// answer, or else what a server says that does not help, or nil.
func (f *forwarder) ask(ctx context.Context, q *query) []byte {
	order := f.order()
	if len(order) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.probe(q, order[0])
	results := make(chan said, len(order))
	var asked []time.Time // when, by server; zero when it has answered or failed
	next := func() {
		i := len(asked)
		asked = append(asked, time.Now())
		go func() {
			answer, err := order[i].exchange(ctx, q)
			results <- said{i, answer, err}
		}()
	}
	defer func() {
		for i, at := range asked {
			if !at.IsZero() && time.Since(at) >= dnsStagger {
				order[i].setSilent(true)
			}
		}
	}()
	next()
	stagger := time.NewTicker(dnsStagger)
	defer stagger.Stop()
	var fallback []byte
	answered := false
	defer func() { f.heard(answered, time.Now()) }()
	for failed := 0; ; {
		select {
		case <-ctx.Done():
			return fallback
		case <-stagger.C:
			if len(asked) < len(order) {
				next()
			}
			continue
		case r := <-results:
			asked[r.server] = time.Time{}
			answered = answered || r.err == nil
			if r.err == nil && rcode(r.answer) != rcodeServFail && rcode(r.answer) != rcodeRefused {
				return r.answer
			}
			if fallback == nil {
				fallback = r.answer
			}
		}
		if failed++; failed == len(order) {
			return fallback
		}
		if failed == len(asked) {
			stagger.Reset(dnsStagger)
			next()
		}
	}
}

// probe asks the silent servers too, once in a while and beside the first in
// order, so that a preferred one gets its place back when it answers again.
func (f *forwarder) probe(q *query, first *upstream) {
	for _, u := range *f.upstreams.Load() {
		if u == first || !u.probe(time.Now()) {
			continue
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), dnsPatience)
			defer cancel()
			_, _ = u.exchange(ctx, q)
		}()
	}
}
