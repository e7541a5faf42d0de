package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/vishvananda/netlink"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/machine"
)

// Devices of this host that the card's ports are.
const (
	worldTAP = "wan0"
	hostTAP  = "lan0"
)

// offloadSpec is the card: a port to the world, and for User-Mode Linux a
// second one, a conventional network device between it and this host.
func offloadSpec(kind machine.Kind, name string) string {
	text := fmt.Sprintf(`name: %s
machine: {kind: %s}
link: {exec: false}
ports:
  - {name: wan, attach: "tap:%s", addresses: [%s/%d], gateway: [%s]}
`, name, kind, worldTAP, worldCardAddr, worldBits, worldAddr)
	if kind == machine.UML {
		text += fmt.Sprintf("  - {name: lan, attach: \"tap:%s\", addresses: [%s/24]}\n", hostTAP, conventionalTo)
	}
	return text
}

// upOffload starts the card and moves its wire into the world.
func (r *run) upOffload(ctx context.Context, kind machine.Kind, w *world) (*testCard, error) {
	file := filepath.Join(r.dir, "offload.yaml")
	if err := os.WriteFile(file, []byte(offloadSpec(kind, cardName)), 0o600); err != nil {
		return nil, err
	}
	c := &testCard{r: r, name: cardName}
	out, err := r.output(ctx, "up", "--json", "--quiet", "--file", file)
	if err == nil {
		err = json.Unmarshal(out, &c.status)
	}
	if err == nil {
		c.card, err = r.dirs().Open(cardName)
	}
	if err == nil {
		err = w.adopt(worldTAP)
	}
	if err == nil && kind == machine.UML {
		err = setAddress(hostTAP, netip.PrefixFrom(mustAddr(conventional), 24))
	}
	if err != nil {
		return nil, errors.Join(err, c.down())
	}
	return c, nil
}

func setAddress(name string, a netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.AddrReplace(l, &netlink.Addr{IPNet: ipNet(a)})
	}
	if err == nil {
		err = netlink.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("interface %s: address %s: %w", name, a, err)
	}
	return nil
}

// setMode makes a card that runs a router or an endpoint.
func (g *rig) setMode(ctx context.Context, mode string) error {
	text, err := g.login.command(ctx, "cat "+control.ConfigPath, strings.NewReader(""), 20*time.Second)
	if err != nil {
		return err
	}
	var conf control.Config
	if err := json.Unmarshal([]byte(text), &conf); err != nil {
		return fmt.Errorf("%s of the card: %w", control.ConfigPath, err)
	}
	conf.Mode = mode
	encoded, err := conf.Encode()
	if err != nil {
		return err
	}
	client, err := g.control()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for { // a card that has just been sent all it can take may be late
		_, err := client.Apply(ctx, &cardpb.ApplyRequest{Config: encoded})
		if err == nil {
			return g.inMode(ctx, client, mode)
		}
		if ctx.Err() != nil || connect.CodeOf(err) == connect.CodeInvalidArgument {
			return fmt.Errorf("mode %s: %w", mode, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// systemCalls returns how many endpoint mode's event loop has made, 0 in router mode.
func (g *rig) systemCalls(ctx context.Context) (float64, error) {
	client, err := g.control()
	if err != nil {
		return 0, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	st, err := client.Status(ctx, &cardpb.StatusRequest{})
	if err != nil {
		return 0, fmt.Errorf("count of system calls: %w", err)
	}
	return float64(st.Offload.GetSystemCalls()), nil
}

// control connects to the card's API.
func (g *rig) control() (*control.Client, error) {
	keys, err := control.LoadClientKeys(g.card.Paths.Keys())
	if err != nil {
		return nil, err
	}
	return control.Dial(netip.AddrPortFrom(g.host, control.APIPort), keys, nil)
}

// inMode waits until the mode is in force.
func (g *rig) inMode(ctx context.Context, client *control.Client, mode string) error {
	for {
		st, err := client.Status(ctx, &cardpb.StatusRequest{})
		if err != nil {
			return err
		}
		if st.Offload.GetMode() == mode && st.Offload.GetRunning() == (mode == control.ModeEndpoint) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("mode %s is not in force, the card says %s: %w", mode, st.Offload, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// world is what a card's port leads to.
type world struct {
	ns     *nsThread
	helper *helper
}

func (r *run) newWorld(end tunnelEnd) (*world, error) {
	ns, err := newNSThread()
	if err != nil {
		return nil, err
	}
	w := &world{ns: ns}
	if w.helper, err = r.startHelper(ns, "world", end, true); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// adopt takes the other end of the card's wire out of the caller's namespace.
func (w *world) adopt(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	if err := netlink.LinkSetNsFd(l, int(w.ns.file.Fd())); err != nil {
		return fmt.Errorf("interface %s into the world's namespace: %w", name, err)
	}
	return w.join(name)
}

// join gives a device of the world's namespace the world's address.
func (w *world) join(name string) error {
	return w.ns.do(func() error {
		return setAddress(name, netip.PrefixFrom(mustAddr(worldAddr), worldBits))
	})
}

func (w *world) close() error {
	if w == nil {
		return nil
	}
	if w.helper != nil {
		_ = w.helper.close()
	}
	w.ns.close()
	return nil
}
