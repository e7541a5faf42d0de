package card

import "fmt"

// CheckHost says what a card that is not running cannot have on this host:
// before it is made, and before its firmware is.
func CheckHost(spec Spec) error {
	if !privileged() {
		if err := spec.withoutRoot(); err != nil {
			return err
		}
	}
	return checkPorts(&Host{}, spec.Ports)
}

func checkPorts(n Network, ports []PortSpec) error {
	for _, p := range ports {
		if err := n.CheckPort(p); err != nil {
			return fmt.Errorf("port %s: %w", p.Name, err)
		}
	}
	return nil
}
