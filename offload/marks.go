package offload

// Packet marks (nfmark). They are values, not bits: a packet has one mark at a time.
const (
	// markLocal is on packets of the host for a socket of this program. The policy rule of policy.go
	// delivers them locally, regardless of their destination.
	markLocal = 0x70e0001
	// markOwn is on packets from our sockets towards the host (SO_MARK). Connection tracking ignores
	// them.
	markOwn = 0x70e0002
	// Verdicts on a held SYN.
	markOpen            = 0x70e0010 // hand it to the listener
	markReset           = 0x70e0011 // answer with RST
	markHostUnreachable = 0x70e0012 // answer with ICMP: no such host
	markNetUnreachable  = 0x70e0013 // answer with ICMP: no such network
	markProhibited      = 0x70e0014 // answer with ICMP: administratively prohibited
)

// proxyPort is the port at 127.0.0.1 and ::1 of the card to which nf_tables redirects connections
// and datagrams of the host. Only the listener has it: programs see the port they connected to.
const proxyPort = 7465

// queueNumber is the number of the nf_tables queue that holds SYNs.
const queueNumber = 746
