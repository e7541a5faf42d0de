package offload

// Stats is what the endpoint has done since it started. Counters only grow;
// the fields that are gauges say so.
type Stats struct {
	TCP TCPStats `json:"tcp"`
	UDP UDPStats `json:"udp"`
}

// TCPStats counts connections, those of published ports included.
type TCPStats struct {
	Open        uint64 `json:"open"`    // gauge: connections joined at this moment
	Opening     uint64 `json:"opening"` // gauge: the remote has not answered yet
	Opened      uint64 `json:"opened"`
	Published   uint64 `json:"published"`   // of Opened, those that came from the wire
	Refused     uint64 `json:"refused"`     // the remote answered with RST
	Unreachable uint64 `json:"unreachable"` // a router, or no route
	TimedOut    uint64 `json:"timed_out"`   // nobody answered
	Reset       uint64 `json:"reset"`       // ended by an error, on either side
	// Payload in bytes, from and to the host.
	FromHost uint64 `json:"from_host_bytes"`
	ToHost   uint64 `json:"to_host_bytes"`
	// Drops are packets or connections that were not served, by cause.
	Drops map[string]uint64 `json:"drops,omitempty"`
}

// UDPStats counts datagrams.
type UDPStats struct {
	Flows         uint64            `json:"flows"` // gauge
	Opened        uint64            `json:"opened"`
	FromHost      uint64            `json:"from_host"`
	ToHost        uint64            `json:"to_host"`
	FromHostBytes uint64            `json:"from_host_bytes"`
	ToHostBytes   uint64            `json:"to_host_bytes"`
	Errors        uint64            `json:"icmp_errors"` // ICMP errors of the wire told to the host
	Drops         map[string]uint64 `json:"drops,omitempty"`
}
