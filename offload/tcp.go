package offload

// tcp is endpoint mode for connections.
type tcp struct{ conf Config }

func newTCP(l *loop, conf Config, logf func(string, ...any)) (*tcp, error) {
	return &tcp{conf: conf}, nil
}
func (t *tcp) configure(conf Config) error { t.conf = conf; return nil }
func (t *tcp) stats() TCPStats             { return TCPStats{} }
func (t *tcp) close()                      {}
