package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/toe-project/toe/control"
)

// found is what a port has got of what it was configured to get.
type found struct {
	addresses           []netip.Prefix
	lease               *lease
	leaseErr, lease6Err error
	routers             routers
	announced           time.Duration // since routers last said something new
}

// addressHealth compares what was configured with what is there.
//
// A port with DHCP alone needs a lease, and one with router advertisements alone
// an IPv6 address: it is starting while that may come, and then degraded. A port
// with both needs the lease, and an IPv6 address if a router has said that there
// is one. A network without IPv6 is an ordinary one, and nothing says that a
// network has none: the port is healthy at its lease and does not wait for a
// router, so that a card starts as fast there as elsewhere.
func addressHealth(r reason, late health, conf control.Port, have found) reason {
	for _, want := range conf.Static() {
		if !slices.Contains(have.addresses, want) {
			return r.with(late, fmt.Sprintf("address %s is not there or not yet checked for duplicates", want))
		}
	}
	four, six := have.fourMissing(conf), have.sixMissing(conf)
	both := conf.HasDHCP() && conf.HasRA()
	switch {
	case four == "" && six == "":
		return r
	case four == "" && both && !have.promised():
		return r.with(healthy, "no IPv6: "+six)
	case four == "" && both && have.announced < grace:
		return r.with(healthy, "IPv6 is not there yet: "+six)
	case four == "" && both:
		return r.with(degraded, fmt.Sprintf("%s after %v", six, grace))
	}
	detail := four
	if four == "" {
		detail = six
	}
	if late == degraded {
		detail += fmt.Sprintf(" after %v", grace)
	}
	return r.with(late, detail)
}

// fourMissing returns why an expected DHCP lease is missing.
func (f *found) fourMissing(conf control.Port) string {
	switch {
	case !conf.HasDHCP() || f.lease != nil:
		return ""
	case f.leaseErr != nil:
		return f.leaseErr.Error()
	}
	return "no DHCP offer"
}

// sixMissing returns why there is no IPv6 address although routers could give one.
func (f *found) sixMissing(conf control.Port) string {
	given := func(a netip.Prefix) bool { return a.Addr().Is6() && !slices.Contains(conf.Static(), a) }
	switch {
	case !conf.HasRA() || slices.ContainsFunc(f.addresses, given):
		return ""
	case !f.routers.seen:
		return "no router advertisement"
	case f.routers.prefix:
		return "no address from the advertised prefix"
	case f.routers.managed && f.lease6Err != nil:
		return "a router refers to DHCPv6: " + f.lease6Err.Error()
	case f.routers.managed:
		return "a router refers to DHCPv6: no address from it"
	}
	return "a router advertisement without a prefix came"
}

// promised reports whether a router has said that there are addresses.
func (f *found) promised() bool { return f.routers.seen && (f.routers.prefix || f.routers.managed) }
