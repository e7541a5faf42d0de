package card

import "os"

// userPort is a port whose connections passt opens as sockets of this host.
func (h *Host) userPort(p PortSpec) (*Attachment, error) {
	run, ours, err := StartPasst(PasstOptions{Name: p.Name, MTU: p.MTU, Around: h.card.Spec.Link.DefaultRoute, Logf: h.logf})
	if err != nil {
		return nil, err
	}
	return &Attachment{
		Files: []*os.File{ours}, Stream: true,
		Died: run.died, Renewed: run.renewed, Waits: run.waits, Close: run.close,
	}, nil
}
