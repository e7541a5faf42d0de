package store

import (
	"cmp"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/internal/atomicfile"
	"github.com/toe-project/toe/link"
)

// Stopped is the status of a card without a supervisor.
func (c *Card) Stopped() status.Status {
	st := status.Status{
		Name: c.Name, State: status.Stopped, Reasons: []string{}, Ports: []status.Port{}, History: []status.Event{},
	}
	m := c.Spec.Machine
	st.Machine = status.Machine{Kind: m.Kind, Arch: string(m.Arch), CPUs: m.CPUs, Memory: int64(m.Memory)}
	st.Firmware.Edition = c.Spec.Firmware.Edition
	st.Link = status.Link{
		Interface: c.Spec.Link.Interface, MTU: control.LinkMTU,
		Host: []netip.Addr{}, Card: []netip.Addr{}, Queues: []link.QueueStats{},
	}
	var l Links
	known := atomicfile.ReadJSON(c.Paths.Links(), &l) == nil
	st.Offload = offloadStatus(&c.Spec, l)
	if known {
		st.Link.Interface = cmp.Or(l.Interface, st.Link.Interface)
		if a := firstAddrs(l); a != nil {
			st.Link.Host, st.Link.Card = a.HostAddrs(), a.CardAddrs()
		}
	}
	for _, p := range c.Spec.Ports {
		st.Ports = append(st.Ports, status.Port{
			Name: p.Name, Attach: p.Attach.String(), MAC: c.MAC(PortDevice(p.Name)).String(), MTU: p.MTU,
			State: string(status.Stopped), Addresses: []string{}, Gateways: []string{},
		})
	}
	return st
}

// BootID returns the host's boot id (random(4)), which differs after each restart.
func BootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

// ModTime returns when the file at path was modified, and whether it exists.
func ModTime(path string) (time.Time, bool) {
	fi, err := os.Stat(path)
	if err != nil {
		return time.Time{}, false
	}
	return fi.ModTime(), true
}

func firstAddrs(l Links) *LinkAddrs {
	if l.Link != nil {
		return l.Link
	}
	return l.Exec
}

// offloadStatus is the part of the status that the specification decides.
func offloadStatus(s *spec.Spec, l Links) status.Offload {
	out := status.Offload{Mode: s.Offload.Mode}
	for _, p := range s.Publish {
		addrs := l.Link
		if p.In == spec.InExec {
			addrs = l.Exec
		}
		st := status.Publish{Protocol: p.Protocol, Port: uint16(p.Port), To: []string{}, In: p.In, Source: p.Source}
		if addrs != nil {
			for _, to := range p.Targets(addrs.HostAddrs()) {
				st.To = append(st.To, to.String())
			}
		}
		out.Publish = append(out.Publish, st)
	}
	return out
}
