package e2e

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"time"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// playTune changes the network of the card that this program was copied to:
//
//	plain DEV         no offloads: the card's kernel cuts and checks packets itself
//	mtu DEV BYTES
//	netem DEV LOSS% DELAY CORRUPT%   on what leaves through DEV; all 0: none
//	open              no firewall: a router between two ports
//	mute              and no ICMP from this card
func playTune(args []string) error {
	switch what := args[0]; {
	case what == "plain" && len(args) == 2:
		return plain(args[1])
	case what == "mtu" && len(args) == 3:
		return setMTU(args[1], args[2])
	case what == "netem" && len(args) == 5:
		return setNetem(args[1], args[2], args[3], args[4])
	case what == "open" && len(args) == 1:
		return openFirewall()
	case what == "mute" && len(args) == 1:
		return mute()
	}
	return fmt.Errorf("tune %q: see playTune", args)
}

func setMTU(dev, bytes string) error {
	n, err := strconv.Atoi(bytes)
	if err != nil {
		return err
	}
	l, err := netlink.LinkByName(dev)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(l, n)
}

func setNetem(dev, loss, delay, corrupt string) error {
	lost, err1 := strconv.ParseFloat(loss, 32)
	late, err2 := time.ParseDuration(delay)
	bad, err3 := strconv.ParseFloat(corrupt, 32)
	l, err4 := netlink.LinkByName(dev)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	at := netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	q := netlink.NewNetem(at, netlink.NetemQdiscAttrs{
		Latency: uint32(late.Microseconds()), Loss: float32(lost), CorruptProb: float32(bad), Limit: 20000,
	})
	if lost == 0 && late == 0 && bad == 0 {
		return netlink.QdiscDel(q)
	}
	return netlink.QdiscReplace(q)
}

// openFirewall removes the card's firewall.
func openFirewall() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "toe"})
	return c.Flush()
}

// mute drops every ICMP that this card would send: a black hole.
func mute() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "mute"})
	ch := c.AddChain(&nftables.Chain{
		Name: "out", Table: t, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookOutput, Priority: nftables.ChainPriorityFilter,
	})
	c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMP}},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}})
	return c.Flush()
}

// Commands of linux/ethtool.h.
const (
	setTXChecksum = 0x17
	setTSO        = 0x1f
	setGSO        = 0x24
	setGRO        = 0x2c
)

// plain switches off the offloads that change packets, on a device of the calling thread's
// namespace.
func plain(dev string) error {
	return errors.Join(ethtool(dev, setTSO), ethtool(dev, setTXChecksum), ethtool(dev, setGSO), ethtool(dev, setGRO))
}

// ethtool sets a flag of a device to 0.
func ethtool(dev string, command uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := &struct{ command, flag uint32 }{command, 0} // struct ethtool_value
	request := struct {                                  // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(value)}
	copy(request.name[:unix.IFNAMSIZ-1], dev)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(value)
	if errno != 0 {
		return fmt.Errorf("SIOCETHTOOL %#x of %s: %w", command, dev, errno)
	}
	return nil
}
