package card

import "context"

// Exec starts a holder and gives the TUN that it made.
func (h *Host) Exec(ctx context.Context, want LinkWant) (*Attachment, error) {
	n, files, err := StartHolder(ctx, want.Queues, want.Addrs)
	if err != nil {
		return nil, err
	}
	return &Attachment{
		Interface: execInterface, Files: files, Seam: true,
		Namespace: &Namespace{PID: n.pid(), User: !privileged()},
		Dial:      n.dial, Ping: n.ping, Lock: n.lock, Abort: n.abort,
		Died: n.died, Close: n.close,
	}, nil
}
