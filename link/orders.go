package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
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
	opStart  op = "start"  // files: kick, then call and err where Has says so
	opStop   op = "stop"
	opEnable op = "enable"
)

type order struct {
	Seq      uint64   `json:"seq"`
	Op       op       `json:"op"`
	Setup    *setup   `json:"setup,omitempty"`
	Regions  []region `json:"regions,omitempty"`
	Features uint64   `json:"features,omitempty"`
	Index    int      `json:"index,omitempty"`
	Ring     *ring    `json:"ring,omitempty"`
	On       bool     `json:"on,omitempty"`
}

// setup is what a pump is told once.
type setup struct {
	Name   string `json:"name"`
	Pairs  int    `json:"pairs"`
	Seam   bool   `json:"seam"`
	Stream bool   `json:"stream"`
	Spin   int64  `json:"spin"` // ns
}

type region struct {
	Guest, User, Size, Offset uint64
}

type ring struct {
	Size              int
	Desc, Avail, Used uint64
	Base              int // -1: from memory
	Enabled           bool
	HasCall, HasErr   bool
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

func sendPacket(fd int, v any, files []*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		oob = unix.UnixRights(fds...)
	}
	for {
		err = unix.Sendmsg(fd, b, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("sendmsg of %d bytes with %d descriptors: %w", len(b), len(files), err)
	}
	return nil
}

// receivePacket returns io.EOF when the other side is gone.
func receivePacket(fd int, v any) ([]int, error) {
	b := make([]byte, maxOrder)
	oob := make([]byte, unix.CmsgSpace(4*maxOrderFiles))
	var n, oobn, flags int
	var err error
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("recvmsg: %w", err)
	}
	if n == 0 {
		return nil, io.EOF
	}
	fds, err := rights(oob[:oobn])
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("order truncated")
	}
	if err == nil {
		err = json.Unmarshal(b[:n], v)
	}
	if err != nil {
		closeFDs(fds)
		return nil, err
	}
	return fds, nil
}

func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			out = append(out, fds...)
		}
	}
	return out, nil
}

// closeFDs closes what nobody took; whoever takes one puts -1 in its place.
func closeFDs(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
