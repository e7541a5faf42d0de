package offload

// Packet marks (nfmark). Each is a value of its own, not a bit: a packet has
// one of them at a time.
const (
	// markLocal is on packets of the host that a socket here is for. The
	// policy rule of policy.go sends them up whatever their destination is.
	markLocal = 0x70e0001
	// markOwn is on what our sockets towards the host send (SO_MARK): it is
	// not connection tracking's business.
	markOwn = 0x70e0002
	// Verdicts on a held SYN.
	markOpen            = 0x70e0010 // hand it to the listener
	markReset           = 0x70e0011 // answer with RST
	markHostUnreachable = 0x70e0012 // answer with ICMP: no such host
	markNetUnreachable  = 0x70e0013 // answer with ICMP: no such network
	markProhibited      = 0x70e0014 // answer with ICMP: administratively prohibited
)

// proxyPort is where nf_tables hands connections and datagrams of the host,
// at 127.0.0.1 and ::1 of the card. It is the listener's own port only: what
// programs see is the port they asked for.
const proxyPort = 7465

// queueNumber is the nf_tables queue that SYNs are held in.
const queueNumber = 746
