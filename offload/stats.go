package offload

// Stats holds the counters since the start of the endpoint. Counters only grow. Gauges are marked.
type Stats struct {
	TCP TCPStats `json:"tcp"`
	UDP UDPStats `json:"udp"`
	// SystemCalls counts those of the event loop (package raw).
	SystemCalls uint64 `json:"system_calls"`
}

// TCPStats counts connections, those of published ports included.
type TCPStats struct {
	Open        uint64 `json:"open"`    // gauge: connections joined
	Opening     uint64 `json:"opening"` // gauge: connections not joined yet
	Opened      uint64 `json:"opened"`
	Published   uint64 `json:"published"`   // part of Opened: from the wire
	Refused     uint64 `json:"refused"`     // the remote answered with RST
	Unreachable uint64 `json:"unreachable"` // ICMP error of a router, or no route
	TimedOut    uint64 `json:"timed_out"`   // no answer
	Reset       uint64 `json:"reset"`       // ended by an error on either side
	// Payload in bytes from and to the host.
	FromHost uint64 `json:"from_host_bytes"`
	ToHost   uint64 `json:"to_host_bytes"`
	// Drops counts packets and connections that were not served, by cause.
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
	Errors        uint64            `json:"icmp_errors"` // ICMP errors of the wire passed to the host
	Drops         map[string]uint64 `json:"drops,omitempty"`
}
