package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/feature"
	"github.com/toe-project/toe/flash"
)

// A card with zero_trust takes its configuration once, at its first start. From then on its host may
// offer a bundle, read, and cut the power, and only the card's administrators change anything. What
// the card has to remember for that is on its data partition, with a mark in the boot environment.
//
//	/data/zero-trust/card.json  the configuration of the first start
//	/data/zero-trust/host_key   the card's own ssh host key, which its host does not know
const (
	trustDir  = dataDir + "/zero-trust"
	trustFlag = runDir + "/zero-trust" // exists on such a card: units of systemd look at it
)

var errZeroTrust = errors.New("zero_trust: only an administrator of the card changes it")

// hostMay has what the host may do on a card with zero_trust. A call that is not here is refused.
var hostMay = map[string]bool{
	cardpb.CardStatusProcedure:   true,
	cardpb.CardLogsProcedure:     true,
	cardpb.CardInstallProcedure:  true, // an offer: installPart.await
	cardpb.CardPackagesProcedure: true, // it reads; without refresh
	cardpb.CardRebootProcedure:   true, // the host has the power switch; this way the card ends in good order
	cardpb.CardPowerOffProcedure: true,
}

// guard refuses what the host may not do.
type guard struct{ *env }

func (g guard) refuses(call string) error {
	if g.config().ZeroTrust && !hostMay[call] {
		return connect.NewError(connect.CodePermissionDenied, errZeroTrust)
	}
	return nil
}

// WrapUnary is of connect.Interceptor.
func (g guard) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, q connect.AnyRequest) (connect.AnyResponse, error) {
		if err := g.refuses(q.Spec().Procedure); err != nil {
			return nil, err
		}
		return next(ctx, q)
	}
}

// WrapStreamingHandler is of connect.Interceptor.
func (g guard) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		if err := g.refuses(c.Spec().Procedure); err != nil {
			return err
		}
		return next(ctx, c)
	}
}

// WrapStreamingClient is of connect.Interceptor. The agent is no client.
func (g guard) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// trust is where a card keeps what zero_trust needs.
type trust struct {
	dir  string
	open func() (bootEnv, error)
}

// admit returns the configuration that is in force: the host's, or the one that the card keeps. keys
// gets the card's own ssh host key.
func (t trust) admit(host *control.Config, keys *control.Keys) (*control.Config, error) {
	conf, err := t.config(host)
	if err != nil || !conf.ZeroTrust {
		return conf, err
	}
	keys.SSHHostKey, err = t.hostKey()
	if err != nil {
		return nil, fmt.Errorf("zero_trust: ssh host key: %w", err)
	}
	return conf, nil
}

func (t trust) config(host *control.Config) (*control.Config, error) {
	path := filepath.Join(t.dir, "card.json")
	text, err := os.ReadFile(path)
	marked, merr := t.isMarked()
	if err == nil {
		var kept *control.Config
		if kept, err = control.ParseConfig(text); err == nil {
			if merr == nil && !marked {
				merr = t.mark() // a power loss came between the two steps of begin
			}
			if merr != nil {
				return nil, fmt.Errorf("zero_trust: %w", merr)
			}
			return t.merge(kept, host)
		}
	}
	switch {
	case marked || err != nil && !errors.Is(err, fs.ErrNotExist):
		// The data is gone or damaged. The card serves its links; no login works, and no program of the
		// host's choice runs.
		locked := *host
		locked.ZeroTrust, locked.AuthorizedKeys, locked.Services = true, nil, nil
		locked.Updates, locked.TimeServers = feature.Updates{}, nil
		return &locked, nil
	case !host.ZeroTrust:
		return host, nil // a card without a flash has no mark, and that is no error
	case merr != nil:
		return nil, fmt.Errorf("zero_trust: %w", merr)
	}
	if err := t.begin(path, host); err != nil {
		return nil, fmt.Errorf("zero_trust: keeping the first configuration: %w", err)
	}
	return host, nil
}

// merge takes from the host what a start needs: its ends of the links, and what it says of the
// firmware and the slot.
func (t trust) merge(kept, host *control.Config) (*control.Config, error) {
	out := *kept
	out.ZeroTrust = true
	out.Links, out.Firmware, out.HealthLimit, out.Rescue = host.Links, host.Firmware, host.HealthLimit, host.Rescue
	a, err := out.Encode()
	if err != nil {
		return nil, err
	}
	out.Digest = control.Digest(a)
	if b, err := host.Encode(); err == nil && bytes.Equal(a, b) {
		out.Digest, out.Ignored = host.Digest, host.Ignored
	}
	return &out, nil
}

func (t trust) isMarked() (bool, error) {
	now, err := changeEnv(t.open, func(flash.Env) flash.Env { return nil })
	return now.ZeroTrust(), err
}

// begin keeps the configuration and then sets the mark. After a power loss in between the next start
// sets it.
func (t trust) begin(path string, c *control.Config) error {
	text, err := c.Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return err
	}
	if err := writeSynced(path, string(text)); err != nil {
		return err
	}
	unix.Sync() // the folders
	return t.mark()
}

func (t trust) mark() error {
	_, err := changeEnv(t.open, func(flash.Env) flash.Env { return flash.Env{flash.ZeroTrustVar: "1"} })
	return err
}

// end gives the card back to its host, which an administrator of the card decides.
func (t trust) end() error {
	if _, err := changeEnv(t.open, func(flash.Env) flash.Env { return flash.Env{flash.ZeroTrustVar: ""} }); err != nil {
		return err
	}
	return os.RemoveAll(t.dir)
}

// hostKey returns the card's own key, made the first time. Without the data it is made anew.
func (t trust) hostKey() ([]byte, error) {
	path := filepath.Join(t.dir, "host_key")
	key, err := os.ReadFile(path)
	if err == nil {
		return key, nil
	}
	made, err := control.GenerateKeys()
	if err != nil {
		return nil, err
	}
	if os.MkdirAll(t.dir, 0o700) == nil && writeSynced(path, string(made.SSHHostKey)) == nil {
		_ = os.Chmod(path, 0o600)
	}
	return made.SSHHostKey, nil
}
