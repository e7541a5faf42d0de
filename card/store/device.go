package store

import (
	"crypto/sha256"
	"net"
)

// The devices of a card, as keepers, sockets and messages name them.
const (
	LinkDevice = "link"
	ExecDevice = "exec"
)

// PortDevice is the device of the port called name.
func PortDevice(name string) string { return "port-" + name }

// MAC returns the address of the device called dev: the same at every start,
// locally administered, unicast.
func (c *Card) MAC(dev string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("mac\x00" + c.Name + "\x00" + dev))
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}
}
