package supervisor

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/link"
)

func healthWord(h cardpb.Health) string {
	return strings.ToLower(strings.TrimPrefix(h.String(), "HEALTH_"))
}

// Status is how the card is now.
func (s *Supervisor) Status() status.Status {
	st := s.world.cardNow().Stopped()
	reply, age := s.board.report(&st, s.world.clearer)
	s.world.report(&st)
	s.world.reportAgent(&st, reply, age)
	return st
}

// report adds what is known of the world. Keepers answer at once, so that mu may
// be held.
func (w *world) report(st *status.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st.Machine.Why = w.why
	if w.machine != nil {
		st.Machine.Kind = string(w.machine.Kind())
	}
	if w.image.Version != "" {
		st.Firmware = status.Firmware{
			Edition: w.image.Edition, Version: w.image.Version, Kernel: w.image.KernelVersion,
			Agent: w.image.AgentVersion, AgentSHA256: w.image.AgentSHA256,
			Slot: w.image.Slot, Trial: w.flash.rom != nil && w.flash.start.Trial,
		}
	}
	for i, d := range w.links {
		l := status.Link{
			MTU: control.LinkMTU, Host: d.addrs.HostAddrs(), Card: d.addrs.CardAddrs(),
			Queues: []link.QueueStats{}, Namespace: d.Name == store.ExecDevice,
		}
		if d.Att != nil {
			l.Interface = d.Att.Interface
		}
		if d.keeper != nil {
			l.PumpPID, l.Queues = d.keeper.PumpPID(), d.keeper.Stats()
		}
		if i == 0 {
			st.Link, st.Pump.PID = l, l.PumpPID
		}
		if d.Name == store.ExecDevice {
			st.Exec = &l
		}
	}
	w.reportDisk(st)
	for i, d := range w.ports {
		if d.Att != nil {
			st.Ports[i].Program = d.Att.Program
		}
		if d.keeper != nil {
			st.Ports[i].PumpPID, st.Ports[i].Queues = d.keeper.PumpPID(), d.keeper.Stats()
		}
	}
}

// clearer is a reason of the agent's, or the reason for that where the host
// knows it.
func (w *world) clearer(component, detail string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range w.ports {
		if why := d.Att.Waiting(); why != "" && component == "port "+d.port.Name {
			return why
		}
	}
	return detail
}

// reportAgent adds what the agent said last, age ago.
func (w *world) reportAgent(st *status.Status, reply *cardpb.StatusResponse, age time.Duration) {
	for i := range st.Ports {
		st.Ports[i].State = string(status.Starting)
	}
	if reply == nil {
		return
	}
	st.UptimeSeconds = reply.UptimeSeconds + age.Seconds()
	st.Firmware.Kernel = cmp.Or(reply.Kernel, st.Firmware.Kernel)
	st.Firmware.Agent = reply.AgentVersion
	st.Firmware.Ignored = reply.GetConfiguration().GetIgnored()
	st.Firmware.ZeroTrust = slices.Contains(reply.Capabilities, control.CapZeroTrust)
	hear(&st.Offload, reply.Offload)
	hearServices(st, reply)
	for i := range st.Ports {
		p := &st.Ports[i]
		for _, r := range reply.Components {
			if r.Component != "port "+p.Name {
				continue
			}
			p.State, p.Detail = healthWord(r.State), r.Detail
			if r.State != cardpb.Health_HEALTH_HEALTHY {
				p.Detail = w.clearer(r.Component, r.Detail)
			}
		}
		for _, n := range reply.Interfaces {
			if n.Name == p.Name {
				p.MTU = int(n.Mtu)
				p.Addresses = append(p.Addresses, n.Addresses...)
				p.Gateways = append(p.Gateways, n.Gateways...)
			}
		}
	}
}
