package link

import (
	"os"

	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/link/vhostuser"
)

// The keeper speaks to its pump over a SOCK_SEQPACKET pair: an order a packet,
// with descriptors beside it, and an answer to each. Between orders the pump
// may send news. The two are one program, so JSON does; the rings never see it.

// op is what an order asks for.
type op string

const (
	opInit   op = "init"   // files: counters, then the host's end of each queue pair
	opMemory op = "memory" // files: one per region
	opOffer  op = "offer"  // negotiated features
	opStart  op = "start"  // files: kick, then call and err where Has says so. Nothing moves before opRun
	opRun    op = "run"    // a ring that was started moves packets from now on
	opStop   op = "stop"
	opEnable op = "enable"
)

type order struct {
	Seq      uint64             `json:"seq"`
	Op       op                 `json:"op"`
	Setup    *setup             `json:"setup,omitempty"`
	Regions  []vhostuser.Region `json:"regions,omitempty"`
	Features uint64             `json:"features,omitempty"`
	Index    int                `json:"index,omitempty"`
	Ring     *vhostuser.Ring    `json:"ring,omitempty"`
	Resume   bool               `json:"resume,omitempty"` // from the used index in memory, not from Ring.Base
	HasCall  bool               `json:"has_call,omitempty"`
	HasErr   bool               `json:"has_err,omitempty"`
	On       bool               `json:"on,omitempty"`
}

// setup is what a pump is told once.
type setup struct {
	Name   string `json:"name"`
	Pairs  int    `json:"pairs"`
	Seam   bool   `json:"seam"`
	Stream bool   `json:"stream"`
	Spin   int64  `json:"spin"` // ns
}

// answer is the pump's word on an order, or with Seq 0 news of its own.
type answer struct {
	Seq   uint64 `json:"seq"`
	Base  uint16 `json:"base,omitempty"`
	Error string `json:"error,omitempty"`
	News  string `json:"news,omitempty"`
	Lacks string `json:"lacks,omitempty"` // to init: what confinement could not have
	Pairs int    `json:"pairs,omitempty"` // that the driver wants to use, as news
}

// maxOrder bounds an order in bytes; maxOrderFiles is 64 memory slots.
const (
	maxOrder      = 64 << 10
	maxOrderFiles = 64 + 2
)

// receivePacket returns io.EOF when the other side is gone.
func receivePacket(fd int, v any) ([]int, error) {
	return fds.Receive(fds.Socket(fd), v, maxOrder, maxOrderFiles)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
