package link

import (
	"fmt"
	"os"

	"github.com/toe-project/toe/link/tun"
	"github.com/toe-project/toe/link/vhostuser"
)

// network is the Kind of a network device.
type network struct {
	dev      Device
	accepted tun.Offload // by the host's kernel
	board    *board
	detached []bool // queue pairs that the host's kernel hands nothing to; guarded by the keeper's mu
}

// newNetwork makes the kind. It leaves the device's files open when it fails.
func newNetwork(dev Device) (*network, error) {
	if err := dev.check(); err != nil {
		return nil, err
	}
	n := &network{dev: dev, detached: make([]bool, len(dev.Files))}
	var err error
	if !dev.Stream {
		if n.accepted, err = tun.Probe(int(dev.Files[0].Fd())); err != nil {
			return nil, fmt.Errorf("device %s: %w", dev.Name, err)
		}
	}
	n.board, err = newBoard(len(dev.Files))
	return n, err
}

func (n *network) Shape() vhostuser.Shape { return vhostuser.NetShape(len(n.dev.Files)) }
func (n *network) Features() uint64       { return n.dev.features(n.accepted) }
func (n *network) Config() []byte         { return n.dev.config() }

func (n *network) Setup() (any, []*os.File) {
	return setup{
		Name: n.dev.Name, Pairs: len(n.dev.Files), Seam: n.dev.Seam, Stream: n.dev.Stream, Spin: int64(n.dev.Spin),
	}, append([]*os.File{n.board.File}, n.dev.Files...)
}

func (n *network) Close() {
	closeAll(n.dev.Files)
	n.board.Close()
}
