// Package offload is endpoint mode: the card terminates the host's connections and
// originates its own on the wire.
//
// The kernel does all protocol work. nf_tables hands the host's packets to
// sockets of this program (TPROXY), and this program moves payload between
// those sockets and sockets of its own on the wire with splice(2). What the
// host sees is a peer one hop away over a link that loses nothing; path MTU,
// fragments, loss, congestion and checksums of the wire are the card's.
//
// The life of a connection from the host, and where it is in this package:
//
//	host's SYN ── nf_tables queue ──▶ opening (opening.go; package nfqueue)
//	                                    │ connect(2) on the wire (socket.go)
//	                      established ◀─┴─▶ refused, unreachable: RST or ICMP to the host
//	                           │
//	     verdict: go on ── nf_tables tproxy ──▶ listener ──▶ flow (flow.go)
//	                                                         splice(2) both ways
//
// So connect(2) on the host succeeds after the remote has accepted, and fails
// as it would without the card.
//
// Small messages are received and sent in batches, with io_uring(7), where the
// kernel has it.
//
// Everything runs on one thread, in one loop over epoll(7) (package loop): no
// locks, and a connection at rest costs two sockets and a small struct.
package offload
