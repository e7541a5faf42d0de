package link

import (
	"encoding/json"
	"os"

	"github.com/toe-project/toe/internal/fds"
	"github.com/toe-project/toe/link/vhostuser"
)

// The keeper controls its pump over a SOCK_SEQPACKET pair. Each packet is one order with its
// descriptors, and each order gets one answer. Between orders the pump may send news. Both ends are
// the same program, so JSON is enough. The data path does not use this socket.

// op is what an order asks for.
type op string

const (
	opInit   op = "init"   // files: of the device, such as the host's end of each queue pair
	opMemory op = "memory" // files: one per region
	opOffer  op = "offer"  // negotiated features
	opStart  op = "start"  // files: kick, then call and err where Has says so. Nothing moves before opRun
	opRun    op = "run"    // a ring that was started begins to move packets
	opStop   op = "stop"
	opEnable op = "enable"
)

type order struct {
	Seq      uint64             `json:"seq"`
	Op       op                 `json:"op"`
	Setup    json.RawMessage    `json:"setup,omitempty"`
	Regions  []vhostuser.Region `json:"regions,omitempty"`
	Features uint64             `json:"features,omitempty"`
	Index    int                `json:"index,omitempty"`
	Ring     *vhostuser.Ring    `json:"ring,omitempty"`
	Resume   bool               `json:"resume,omitempty"` // from the used index in memory, not from Ring.Base
	HasCall  bool               `json:"has_call,omitempty"`
	HasErr   bool               `json:"has_err,omitempty"`
	On       bool               `json:"on,omitempty"`
}

// setup is what the pump of a network device gets once, with opInit.
type setup struct {
	Name   string `json:"name"`
	Pairs  int    `json:"pairs"`
	Seam   bool   `json:"seam"`
	Stream bool   `json:"stream"`
	Spin   int64  `json:"spin"` // ns
}

// answer is the pump's answer to an order, or news if Seq is 0.
type answer struct {
	Seq   uint64 `json:"seq"`
	Base  uint16 `json:"base,omitempty"`
	Error string `json:"error,omitempty"`
	News  string `json:"news,omitempty"`
	Lacks string `json:"lacks,omitempty"` // to init: what this host could not confine
	Pairs int    `json:"pairs,omitempty"` // that the driver wants to use, as news
}

// maxOrder bounds an order in bytes; maxOrderFiles is 64 memory slots.
const (
	maxOrder      = 64 << 10
	maxOrderFiles = 64 + 2
)

// receivePacket receives one packet. It returns io.EOF if the peer has closed the socket.
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
