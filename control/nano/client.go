package nano

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// tryLimit is the wait for an answer before the question is sent again: UDP may lose it, and a card
// that boots does not answer.
const tryLimit = 250 * time.Millisecond

// Client stands in for the client of the agent (control.Client). It answers Status, Reboot and
// PowerOff, and refuses the rest.
type Client struct {
	addr string
	dial control.DialFunc

	mu      sync.Mutex // guards what follows, and is held while a question waits
	key     Key
	devices []string
	kernel  string
	version string // of the firmware
	name    string
	last    uint64 // number of the last question
}

var _ cardpb.CardClient = (*Client)(nil)

// Dial prepares a client of the card at addr. It sends nothing before the first call.
func (c *Client) Dial(addr netip.Addr, dial control.DialFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addr, c.dial = netip.AddrPortFrom(addr, Port).String(), dial
}

// Configure returns the card's file, with a new key: what was recorded in one life of the card has
// no effect in the next. Kernel is the release in the image.
func (c *Client) Configure(cfg *control.Config, kernel string) ([]byte, error) {
	key := NewKey()
	data, err := File(cfg, key)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.key, c.kernel, c.name, c.version, c.devices = key, kernel, cfg.Name, cfg.Firmware, nil
	for _, l := range cfg.Links {
		c.devices = append(c.devices, "link "+l.Name)
	}
	for _, p := range cfg.Ports {
		c.devices = append(c.devices, "port "+p.Name)
	}
	return data, nil
}

// Status asks the card how it is.
func (c *Client) Status(ctx context.Context, _ *cardpb.StatusRequest) (*cardpb.StatusResponse, error) {
	a, err := c.ask(ctx, status)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &cardpb.StatusResponse{
		Health: cardpb.Health_HEALTH_HEALTHY, Name: c.name, Hostname: c.name, Kernel: c.kernel,
		UptimeSeconds: a.uptime.Seconds(), FirmwareVersion: c.version,
		Offload: &cardpb.Offload{Mode: control.ModeRouter},
	}
	if len(a.errors) != len(c.devices) {
		return nil, fmt.Errorf("the card tells of %d devices, want %d", len(a.errors), len(c.devices))
	}
	for i, name := range c.devices {
		reason := &cardpb.Reason{Component: name, State: cardpb.Health_HEALTH_HEALTHY}
		if e := a.errors[i]; e != 0 {
			reason.State, reason.Detail = cardpb.Health_HEALTH_DEGRADED, fmt.Sprintf("setting it up: %v", e)
			r.Health, r.Reasons = reason.State, append(r.Reasons, reason)
		}
		r.Components = append(r.Components, reason)
	}
	return r, nil
}

// Reboot returns when the card has answered.
func (c *Client) Reboot(ctx context.Context, _ *cardpb.RebootRequest) (*cardpb.RebootResponse, error) {
	_, err := c.ask(ctx, reboot)
	return &cardpb.RebootResponse{}, err
}

// PowerOff returns when the card has answered.
func (c *Client) PowerOff(ctx context.Context, _ *cardpb.PowerOffRequest) (*cardpb.PowerOffResponse, error) {
	_, err := c.ask(ctx, powerOff)
	return &cardpb.PowerOffResponse{}, err
}

func refused(what string) error {
	return connect.NewError(connect.CodeUnimplemented, fmt.Errorf("the nano edition has no %s; firmware.edition micro has", what))
}

// Apply is refused.
func (c *Client) Apply(context.Context, *cardpb.ApplyRequest) (*cardpb.ApplyResponse, error) {
	return nil, refused("apply: `toe down` and `toe up` start the card with another card.yaml")
}

// Logs is refused.
func (c *Client) Logs(context.Context, *cardpb.LogsRequest) (*connect.ServerStreamForClient[cardpb.LogLine], error) {
	return nil, refused("logs: `toe console` shows what its kernel says")
}

// Capture is refused.
func (c *Client) Capture(context.Context, *cardpb.CaptureRequest) (*connect.ServerStreamForClient[cardpb.CaptureBatch], error) {
	return nil, refused("capture")
}

// Install is refused.
func (c *Client) Install(context.Context, *cardpb.InstallRequest) (*connect.ServerStreamForClient[cardpb.InstallProgress], error) {
	return nil, refused("slots to install into")
}

// Upgrade is refused.
func (c *Client) Upgrade(context.Context, *cardpb.UpgradeRequest) (*connect.ServerStreamForClient[cardpb.UpgradeProgress], error) {
	return nil, refused("packages to upgrade")
}

// Packages is refused.
func (c *Client) Packages(context.Context, *cardpb.PackagesRequest) (*cardpb.PackagesResponse, error) {
	return nil, refused("packages")
}

// ask repeats the question until its answer arrives or ctx ends. A command keeps its number, so that
// the card obeys it once.
func (c *Client) ask(ctx context.Context, k kind) (*answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last+1, uint64(time.Now().UnixNano()))
	q := question(k, c.last, c.key)
	conn, err := c.dial(ctx, "udp", c.addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, maxAnswer+1)
	for {
		if _, err := conn.Write(q); err != nil && ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(tryLimit))
		for {
			n, err := conn.Read(buf)
			if ctx.Err() != nil {
				return nil, fmt.Errorf("no answer on %s: %w", c.addr, ctx.Err())
			}
			if err != nil {
				break
			}
			if a, err := parseAnswer(buf[:n], q, c.key); err == nil {
				return a, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no answer on %s: %w", c.addr, ctx.Err())
		case <-time.After(tryLimit / 10):
		}
	}
}
