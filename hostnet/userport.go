package hostnet

import (
	"os"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/hostnet/passt"
)

// userPort is a port whose connections passt opens as sockets of this host.
func (h *Host) userPort(p spec.Port) (*Attachment, error) {
	run, ours, err := passt.Start(passt.Options{Name: p.Name, MTU: p.MTU, Around: h.card.Spec.Link.DefaultRoute, Logf: h.logf})
	if err != nil {
		return nil, err
	}
	return &Attachment{
		Files: []*os.File{ours}, Stream: true,
		Died: run.Died, Renewed: run.Renewed, Waits: run.Waits, Close: run.Close,
	}, nil
}
