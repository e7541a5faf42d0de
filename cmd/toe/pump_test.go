package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/internal/ownnet"
)

// withoutPrivilege drops what the calling thread may do to others' devices.
func withoutPrivilege() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

// TestPumpSetsTheMTU: of a TUN that it makes or may change; of a TAP never;
// that another's stays as it is, is told.
func TestPumpSetsTheMTU(t *testing.T) {
	for _, c := range []struct {
		name         string
		there        bool // made before, for this user
		unprivileged bool
		tap          bool
		mtu          int
		says         string
	}{
		{name: "its own", mtu: 65535, says: "MTU 65535, was 1500"},
		{name: "there", there: true, mtu: 65535, says: "MTU 65535, was 1500"},
		{name: "another's", there: true, unprivileged: true, mtu: 1500, says: "its MTU stays 1500: not permitted to change it; root can: ip link set toe7 mtu 65535"},
		{name: "TAP", tap: true, mtu: 1500},
	} {
		t.Run(c.name, func(t *testing.T) {
			ownnet.Run(t, func() {
				if c.there {
					made := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "toe7"}, Mode: netlink.TUNTAP_MODE_TUN, Owner: uint32(os.Geteuid()), Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR}
					if err := netlink.LinkAdd(made); err != nil {
						t.Errorf("toe7: %v", err)
						return
					}
				}
				if c.unprivileged {
					if err := withoutPrivilege(); err != nil {
						t.Errorf("capset: %v", err)
						return
					}
				}
				var said []string
				say := func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
				files, err := openInterface(pumpFlags{iface: "toe7", queues: 1, tap: c.tap}, say)
				if err != nil {
					t.Error(err)
					return
				}
				defer files[0].Close()
				l, err := netlink.LinkByName("toe7")
				if err != nil || l.Attrs().MTU != c.mtu || strings.Join(said, "|") != c.says {
					t.Errorf("MTU %v, %v, said %q; want %d, %q", l.Attrs().MTU, err, said, c.mtu, c.says)
				}
			})
		})
	}
}
