package hostnet

import (
	"context"

	"github.com/toe-project/toe/hostnet/holder"
)

// Exec starts a holder and gives the TUN that it made.
func (h *Host) Exec(ctx context.Context, want LinkOptions) (*Attachment, error) {
	n, files, err := holder.Start(ctx, want.Queues, want.Addrs)
	if err != nil {
		return nil, err
	}
	return &Attachment{
		Interface: holder.Interface, Files: files, Seam: true,
		Namespaces: n.Namespaces,
		Dial:       n.Dial, Ping: n.Ping, Lock: n.Lock, Abort: n.Abort,
		Died: n.Died, Close: n.Close,
	}, nil
}
