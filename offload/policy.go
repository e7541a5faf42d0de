package offload

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The policy routing of endpoint mode: a packet with markLocal is for a
// socket of the card, whatever its destination. The number names both the
// rule's preference and its table.
const policyNumber = 746

var families = []int{unix.AF_INET, unix.AF_INET6}

func policy(family int) (*netlink.Rule, *netlink.Route, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, nil, fmt.Errorf("device lo: %w", err)
	}
	rule := netlink.NewRule()
	rule.Family = family
	rule.Mark = markLocal
	rule.Priority = policyNumber
	rule.Table = policyNumber
	bits := 32
	if family == unix.AF_INET6 {
		bits = 128
	}
	return rule, &netlink.Route{
		LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Scope: unix.RT_SCOPE_HOST, Table: policyNumber,
		Dst: &net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)},
	}, nil
}

// addPolicy adds the rules and routes. They may exist already, left by a program that was killed.
func addPolicy() error {
	for _, family := range families {
		rule, route, err := policy(family)
		if err != nil {
			return err
		}
		if err := netlink.RouteReplace(route); err != nil {
			if family == unix.AF_INET6 && noIPv6(err) {
				continue
			}
			return fmt.Errorf("local route of table %d: %w", policyNumber, err)
		}
		if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("rule for mark %#x: %w", markLocal, err)
		}
	}
	return nil
}

func removePolicy() error {
	var errs []error
	for _, family := range families {
		rule, route, err := policy(family)
		if err != nil {
			return err
		}
		for _, err := range []error{netlink.RuleDel(rule), netlink.RouteDel(route)} {
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) && !noIPv6(err) {
				errs = append(errs, fmt.Errorf("policy routing of table %d: %w", policyNumber, err))
			}
		}
	}
	return errors.Join(errs...)
}

// noIPv6 reports whether err means that the kernel or the device has no IPv6.
func noIPv6(err error) bool {
	return errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EACCES)
}
