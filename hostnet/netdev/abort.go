package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/card/store"
)

// Abort ends the TCP connections over a link in the caller's network namespace. Their programs get
// ECONNABORTED. The other half of a connection is gone with its endpoint, and a program that only
// reads would wait without end. Listening sockets stay, and so do connecting ones, which the next
// card answers. Abort needs a kernel with CONFIG_INET_DIAG_DESTROY, such as Debian's.
func Abort(a store.LinkAddrs) error {
	w := wayOf(a)
	var errs []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		all, err := netlink.SocketDiagTCP(family)
		// An interrupted list has nearly all of them.
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			errs = append(errs, fmt.Errorf("sock_diag: list of TCP sockets: %w", err))
			continue
		}
		for _, s := range all {
			if !slices.Contains(connected, s.State) || !w.carries(s) {
				continue
			}
			err := destroy(s)
			if errors.Is(err, unix.EOPNOTSUPP) {
				return errors.New("sock_diag: this kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY): " +
					"connections through the card end when their program writes, or by TCP keepalive")
			}
			if err != nil && !errors.Is(err, unix.ENOENT) { // it has ended by itself
				errs = append(errs, fmt.Errorf("sock_diag: destroy a connection to port %d: %w", s.ID.DestinationPort, err))
			}
		}
	}
	return errors.Join(errs[:min(len(errs), 3)]...)
}

// connected lists the states of <net/tcp_states.h> in which the far end knows of a connection:
// ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK and CLOSING.
var connected = []uint8{1, 4, 5, 8, 9, 11}

// destroy ends one socket (SOCK_DESTROY of sock_diag(7)).
func destroy(s *netlink.Socket) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddData(diagRequest{s})
	_, err := req.Execute(unix.NETLINK_SOCK_DIAG, 0)
	return err
}

// diagRequest is struct inet_diag_req_v2 of <linux/inet_diag.h>.
type diagRequest struct{ *netlink.Socket }

func (diagRequest) Len() int { return 56 }

func (d diagRequest) Serialize() []byte {
	b := make([]byte, 8, d.Len())
	b[0], b[1] = d.Family, unix.IPPROTO_TCP
	b = binary.BigEndian.AppendUint16(b, d.ID.SourcePort)
	b = binary.BigEndian.AppendUint16(b, d.ID.DestinationPort)
	for _, ip := range [][]byte{d.ID.Source, d.ID.Destination} {
		if d.Family == unix.AF_INET {
			ip = ip[len(ip)-4:]
		}
		b = append(b, ip...)
		b = append(b, make([]byte, 16-len(ip))...)
	}
	for _, v := range []uint32{d.ID.Interface, d.ID.Cookie[0], d.ID.Cookie[1]} {
		b = binary.NativeEndian.AppendUint32(b, v)
	}
	return b
}
