package offload

// udp is endpoint mode for datagrams.
type udp struct{}

func newUDP(l *loop, conf Config, logf func(string, ...any)) (*udp, error) { return &udp{}, nil }
func (u *udp) configure(conf Config) error                                 { return nil }
func (u *udp) stats() UDPStats                                             { return UDPStats{} }
func (u *udp) close()                                                      {}
