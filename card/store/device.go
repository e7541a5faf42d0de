package store

import (
	"net"

	"github.com/toe-project/toe/internal/hostid"
)

// The devices of a card, as keepers, sockets and messages name them.
const (
	LinkDevice = "link"
	ExecDevice = "exec"
)

// PortDevice is the device of the port called name.
func PortDevice(name string) string { return "port-" + name }

// MAC returns the address of the device called dev: the same at every start,
// locally administered, unicast. Cards of one name on two hosts, or of two
// users of one host, have different ones: their ports may be on one network.
func (c *Card) MAC(dev string) net.HardwareAddr {
	sum := hostid.Hash("mac", c.Dirs.State, c.Name, dev)
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}
}
