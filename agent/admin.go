package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"connectrpc.com/connect"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// adminSocket is where the card's own administrator reaches the control API. Only root may connect to it.
const adminSocket = runDir + "/agent.sock"

// listenAdmin serves the control API on a socket of the card until the run ends.
func (s *server) listenAdmin(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	_ = os.Remove(path) // of an agent that was killed
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = ln.Close()
		return err
	}
	// Without guard: zero_trust is about the host.
	mux := http.NewServeMux()
	mux.Handle(cardpb.NewCardHandler(rpc{s.agent}, connect.WithReadMaxBytes(control.MaxConfig)))
	s.admin = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	s.agent.spawn(func() { _ = s.admin.Serve(limitListener(ln, 16)) })
	return nil
}

// AdminUpgrade upgrades the packages of the card that it runs on, as `toe firmware upgrade` on the host
// does, and restarts it, unless told otherwise.
func AdminUpgrade(ctx context.Context, out io.Writer, reboot bool) error {
	c := adminClient(adminSocket)
	stream, err := c.Upgrade(ctx, &cardpb.UpgradeRequest{})
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	last, said := &cardpb.UpgradeProgress{}, ""
	for stream.Receive() {
		last = stream.Msg()
		if last.Step != said {
			_, _ = fmt.Fprintf(out, "%3d%% %s\n", last.Percent, last.Step)
			said = last.Step
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	if last.Slot == "" {
		_, err := fmt.Fprintln(out, "no package is newer")
		return err
	}
	for _, line := range last.Changes {
		_, _ = fmt.Fprintln(out, "  "+line)
	}
	if !reboot {
		_, err := fmt.Fprintf(out, "%d packages; the card starts slot %s the next time\n", last.Changed, last.Slot)
		return err
	}
	_, _ = fmt.Fprintf(out, "%d packages; restarting into slot %s\n", last.Changed, last.Slot)
	_, err = c.Reboot(ctx, &cardpb.RebootRequest{})
	return err
}

func adminClient(socket string) cardpb.CardClient {
	var d net.Dialer
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", socket) }
	h := &http.Client{Transport: &http.Transport{DialContext: dial}}
	return cardpb.NewCardClient(h, "http://card", connect.WithReadMaxBytes(control.MaxConfig))
}
