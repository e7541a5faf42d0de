package agent

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"time"

	"connectrpc.com/connect"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// server is the control API on the card.
type server struct {
	agent *Agent
	http  *http.Server
	admin *http.Server // for the card's administrator; nil where the card has none
}

func newServer(a *Agent) (*server, error) {
	conf, err := control.ServerTLS(a.opts.Keys)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(cardpb.NewCardHandler(rpc{a},
		connect.WithReadMaxBytes(control.MaxConfig+4096), connect.WithInterceptors(guard{a.env})))
	mux.Handle("GET "+control.OfferPath, partOf[*installPart](a.env).offers)
	return &server{agent: a, http: &http.Server{
		TLSConfig:         conf,
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(a.log, "control: ", 0),
		// The stream of a host that died ends after 25 s.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}}, nil
}

// listen serves one address until the server is closed.
func (s *server) listen(ctx context.Context, at netip.AddrPort) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	s.agent.spawn(func() {
		err := s.http.ServeTLS(limitListener(ln, 64), "", "")
		if err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.agent.log.Sayf("control on %s: %v", at, err)
		}
	})
	return nil
}

// close waits up to 300 ms for answers under way.
func (s *server) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	for _, h := range []*http.Server{s.http, s.admin} {
		if h != nil && h.Shutdown(ctx) != nil {
			_ = h.Close()
		}
	}
}

// rpc implements the calls.
type rpc struct{ a *Agent }

func (r rpc) Status(_ context.Context, q *cardpb.StatusRequest) (*cardpb.StatusResponse, error) {
	// A host that sets the clock back could have an expired certificate accepted.
	if q.HostTimeUnixNano > 0 && !r.a.config().ZeroTrust {
		partOf[*timePart](r.a.env).clock.hear(time.Unix(0, q.HostTimeUnixNano))
	}
	return r.a.status(), nil
}

func (r rpc) Apply(ctx context.Context, q *cardpb.ApplyRequest) (*cardpb.ApplyResponse, error) {
	conf, err := control.ParseConfig(q.Config)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	changes, err := r.a.Apply(ctx, conf)
	if err != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	}
	return &cardpb.ApplyResponse{Changes: changes, Ignored: conf.Ignored}, nil
}

func (r rpc) Logs(
	ctx context.Context, q *cardpb.LogsRequest, out *connect.ServerStream[cardpb.LogLine],
) error {
	next := r.a.log.tail(uint64(q.Tail))
	for {
		lines, then, missed, wake := r.a.log.read(next, 256)
		for _, l := range lines {
			line := &cardpb.LogLine{
				TimeUnixNano: l.Time.UnixNano(), Source: l.Source, Text: l.Text, Missed: missed,
			}
			if err := out.Send(line); err != nil {
				return err
			}
			missed = 0
		}
		next = then
		if len(lines) > 0 {
			continue
		}
		if !q.Follow {
			return nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil
		case <-r.a.run.Done():
			return nil
		}
	}
}

func (r rpc) Install(
	ctx context.Context, q *cardpb.InstallRequest, out *connect.ServerStream[cardpb.InstallProgress],
) error {
	// A host that is gone ends the installation.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.a.run, cancel)()
	slot, err := partOf[*installPart](r.a.env).install(ctx, q, func(percent uint32, step string) {
		if out.Send(&cardpb.InstallProgress{Percent: percent, Step: step}) != nil {
			cancel()
		}
	})
	if err != nil {
		return err
	}
	return out.Send(&cardpb.InstallProgress{Percent: 100, Step: "installed", Slot: slot})
}

func (r rpc) Upgrade(
	ctx context.Context, _ *cardpb.UpgradeRequest, out *connect.ServerStream[cardpb.UpgradeProgress],
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.a.run, cancel)()
	slot, changes, err := partOf[*upgradePart](r.a.env).upgrade(ctx, func(percent int, step string) {
		if out.Send(&cardpb.UpgradeProgress{Percent: uint32(percent), Step: step}) != nil {
			cancel()
		}
	})
	if err != nil {
		return callError(err)
	}
	return out.Send(&cardpb.UpgradeProgress{
		Percent: 100, Step: "upgraded", Slot: string(slot),
		Changes: changes[:min(len(changes), maxListed)], Changed: uint32(len(changes)),
	})
}

// callError gives the error of an update the code that the call's documentation names.
func callError(err error) error {
	var failed *installError
	if errors.As(err, &failed) {
		return connect.NewError(failed.code(), failed)
	}
	return err
}

func (r rpc) Packages(ctx context.Context, q *cardpb.PackagesRequest) (*cardpb.PackagesResponse, error) {
	return partOf[*upgradePart](r.a.env).packages(ctx, q.Refresh && !r.a.config().ZeroTrust)
}

func (r rpc) Reboot(context.Context, *cardpb.RebootRequest) (*cardpb.RebootResponse, error) {
	r.a.log.Sayf("reboot: the host asks for it")
	r.a.end(Reboot)
	return &cardpb.RebootResponse{}, nil
}

func (r rpc) PowerOff(context.Context, *cardpb.PowerOffRequest) (*cardpb.PowerOffResponse, error) {
	r.a.log.Sayf("power off: the host asks for it")
	r.a.end(PowerOff)
	return &cardpb.PowerOffResponse{}, nil
}
