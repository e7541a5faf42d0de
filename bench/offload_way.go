package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/control"
)

// side is this host as one of the ways sees it: a namespace with the traffic
// program, and with WireGuard in user space for the ways that encrypt here.
type side struct {
	ns           *nsThread // nil for the caller's
	load, tunnel *helper
}

func (r *run) newSide(ns *nsThread, end tunnelEnd) (*side, error) {
	s := &side{ns: ns}
	var err error
	if s.load, err = r.startHelper(ns, "load", nil, false); err != nil {
		return nil, err
	}
	if s.tunnel, err = r.startHelper(ns, "tunnel", end, true); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *side) close() error {
	for _, h := range []*helper{s.tunnel, s.load} {
		if h != nil {
			_ = h.close()
		}
	}
	return nil
}

// spent is the CPU time of the traffic program and of WireGuard.
func (s *side) spent() spent { return total(s.load.spent(), s.tunnel.spent()) }

// order sends the traffic program an order.
func (s *side) order(ctx context.Context, o loadOrder, limit time.Duration) (done loadDone, err error) {
	if err := json.NewEncoder(s.load.in).Encode(o); err != nil {
		return done, fmt.Errorf("the traffic program: %w: %s", err, s.load.words)
	}
	b, err := s.load.line(ctx, limit)
	if err != nil {
		return done, err
	}
	if err := json.Unmarshal(b, &done); err != nil {
		return done, fmt.Errorf("the traffic program said %.80q: %w", b, err)
	}
	if done.Error != "" {
		return done, errors.New(done.Error)
	}
	return done, nil
}

// route leads to a host by a device; via may be invalid.
func (s *side) route(to, via netip.Addr, device string) error {
	return s.ns.do(func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return fmt.Errorf("interface %s: %w", device, err)
		}
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(32, 32)}}
		if via.IsValid() {
			r.Gw = via.AsSlice()
		} else {
			r.Scope = netlink.SCOPE_LINK
		}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("route to %s by %s: %w", to, device, err)
		}
		return nil
	})
}

// work is what is measured beside the bare network.
type work string

const (
	plainWork work = "plain"
	rulesWork work = "firewall"  // 100 rules
	cryptWork work = "wireguard" // encryption
)

// ruleCount is how many rules the firewall has.
const ruleCount = 100

// way is a path of the host's packets to the world.
type way struct {
	name    string
	rig     *rig
	side    *side
	port    uint16 // of the world
	offload bool   // firewall and encryption are the card's work
	mode    string // of the card, or empty to leave it
	device  string // of the host
	via     netip.Addr
	state   state // of the card, without a firewall
	hostTSO *bool // nil to leave it
	// program is the traffic program and WireGuard of the host, mover what
	// moves its packets: pump or QEMU's emulation. card is what the card's
	// CPU does, wire what stands in for the card's port.
	program, mover, card, wire spent
}

// prepare sets up the measurement of a work.
func (w *way) prepare(ctx context.Context, k work) error {
	if w.mode != "" {
		if err := w.rig.setMode(ctx, w.mode); err != nil {
			return err
		}
	}
	card, host := w.state, state{}
	if w.hostTSO != nil {
		host.TSO = map[string]bool{w.device: *w.hostTSO}
	}
	if k == rulesWork && w.offload {
		card.Firewall = firewall{Device: "wan", Rules: ruleCount}
	} else if k == rulesWork {
		host.Firewall = firewall{Device: w.device, Rules: ruleCount}
	}
	if err := w.rig.login.onCard(ctx, "state", card); err != nil {
		return err
	}
	if err := w.side.ns.do(host.set); err != nil {
		return fmt.Errorf("this host: %w", err)
	}
	return w.routes()
}

// packets are those that the way's device has carried so far.
func (w *way) packets() (n float64, err error) {
	err = w.side.ns.do(func() error {
		l, err := netlink.LinkByName(w.device)
		if err != nil {
			return fmt.Errorf("interface %s: %w", w.device, err)
		}
		if s := l.Attrs().Statistics; s != nil {
			n = float64(s.RxPackets + s.TxPackets)
		}
		return nil
	})
	return n, err
}

// calls are the system calls that endpoint mode's event loop has made so far.
func (w *way) calls(ctx context.Context) (float64, error) {
	if w.mode != control.ModeEndpoint {
		return 0, nil
	}
	return w.rig.systemCalls(ctx)
}

// routes adds routes to the world by the way's device, and to the tunnel's far end where WireGuard
// is the card's work.
func (w *way) routes() error {
	if err := w.side.route(mustAddr(worldAddr), w.via, w.device); err != nil {
		return err
	}
	if w.offload {
		return w.side.route(mustAddr(tunnelWorld), w.via, w.device)
	}
	return w.side.route(mustAddr(tunnelWorld), netip.Addr{}, tunnelDevice)
}

// address is where the world answers on this way.
func (w *way) address(k work) string {
	host := worldAddr
	if k == cryptWork {
		host = tunnelWorld
	}
	return netip.AddrPortFrom(mustAddr(host), w.port).String()
}

func mustAddr(s string) netip.Addr { return netip.MustParseAddr(s) }
