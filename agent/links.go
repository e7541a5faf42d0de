package agent

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// linksPart is the card's ends of its links, and what listens on them for the
// host.
type linksPart struct {
	idle
	*env
	links []*link // from begin on

	mu     sync.Mutex // guards what follows
	ready  time.Duration
	silent map[string]error // what could not listen, by name
}

// begin brings up the links, and on each of them the services of all parts,
// the control API first. It returns after the first try.
func (ls *linksPart) begin(ctx context.Context, api *server) {
	if lo, err := ls.nl.LinkByName("lo"); err == nil {
		_ = ls.nl.LinkSetUp(lo)
	}
	for _, conf := range ls.config().Links {
		ls.links = append(ls.links, newLink(conf, ls.nl, ls.sys))
	}
	for _, l := range ls.links {
		if err := l.up(); err == nil {
			ls.serve(ctx, l, api)
			continue
		}
		ls.spawn(func() {
			if l.keepTrying(ctx, ls.log) {
				ls.serve(ctx, l, api)
			}
		})
	}
}

func (ls *linksPart) serve(ctx context.Context, l *link, api *server) {
	ls.listen(ctx, l, listener{"control", control.APIPort, api.listen})
	ls.spawn(func() {
		for _, p := range ls.parts {
			for _, s := range p.listeners() {
				ls.listen(ctx, l, s)
			}
		}
	})
}

// listen opens one service on all addresses of a link.
func (ls *linksPart) listen(ctx context.Context, l *link, s listener) {
	for _, p := range l.conf.Card {
		at := netip.AddrPortFrom(p.Addr(), s.port)
		err := s.listen(ctx, at)
		if err != nil {
			ls.log.Sayf("%s on %s: %v", s.name, l.conf.Name, err)
		}
		ls.mu.Lock()
		if err != nil {
			if ls.silent == nil {
				ls.silent = map[string]error{}
			}
			ls.silent[s.name+" "+at.String()] = err
		} else if ls.ready == 0 {
			ls.ready = uptime()
			ls.log.Printf("the control API listens %v after the kernel's start",
				ls.ready.Round(time.Millisecond))
		}
		ls.mu.Unlock()
	}
}

func (ls *linksPart) plan(now, next *control.Config) ([]step, error) {
	if !reflect.DeepEqual(now.Links, next.Links) {
		return nil, errors.New("links: they cannot change while the card runs; fix: restart the card")
	}
	return nil, nil
}

func (ls *linksPart) rules(c *control.Config, r *rules) {
	for _, l := range c.Links {
		r.links = append(r.links, l.Name)
	}
}

func (ls *linksPart) health() []reason {
	var out []reason
	for _, l := range ls.links {
		out = append(out, l.health())
	}
	ls.mu.Lock()
	silent := maps.Clone(ls.silent)
	ls.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(silent)) {
		out = append(out, reason{name, degraded, silent[name].Error()})
	}
	return out
}

func (ls *linksPart) status(out *cardpb.StatusResponse) {
	ls.mu.Lock()
	out.ReadySeconds = ls.ready.Seconds()
	ls.mu.Unlock()
	for _, l := range ls.links {
		out.Interfaces = append(out.Interfaces, interfaceStatus(ls.nl, l.conf.Name, "link", l.conf.MAC))
	}
}
