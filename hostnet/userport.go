package hostnet

import (
	"context"
	"os"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/hostnet/passt"
)

// userPort is a port whose connections passt opens as sockets of this host.
func (h *Host) userPort(ctx context.Context, p spec.Port) (*Attachment, error) {
	program, err := h.passt(ctx, h.card.Paths.Cache, nil)
	if err != nil {
		return nil, err
	}
	h.logf("port %s: passt is %s", p.Name, program)
	run, ours, err := passt.Start(passt.Options{
		Program: program, Name: p.Name, MTU: p.MTU, Around: h.card.Spec.Link.DefaultRoute, Logf: h.logf,
	})
	if err != nil {
		return nil, err
	}
	return &Attachment{
		Files: []*os.File{ours}, Stream: true, Program: program.String(),
		Died: run.Died, Renewed: run.Renewed, Waits: run.Waits, Close: run.Close,
	}, nil
}
