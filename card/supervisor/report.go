package supervisor

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/card/store"
	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
	"github.com/toe-project/toe/link"
)

// change alters what Status shows and wakes those who wait for that.
func (s *Supervisor) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.tell()
}

// tell wakes those who wait for a change. Called with mu held.
func (s *Supervisor) tell() {
	s.sequence++
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Supervisor) setStage(stage string) {
	s.log.Printf("stage: %s", stage)
	s.change(func() { s.stage = stage })
}

// maxHistory is how many events are kept.
const maxHistory = 32

// event adds to the history.
func (s *Supervisor) event(format string, args ...any) {
	e := status.Event{Time: time.Now(), Text: fmt.Sprintf(format, args...)}
	s.log.Print(e.Text)
	s.change(func() {
		s.history = append(s.history, e)
		s.history = slices.Clone(s.history[max(len(s.history)-maxHistory, 0):])
	})
	s.remember()
}

// trouble says what is wrong with a component on the host's side; an empty
// text that nothing is.
func (s *Supervisor) trouble(component, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.troubles[component] == text {
		return
	}
	s.troubles[component] = text
	if text == "" {
		delete(s.troubles, component)
	}
	s.tell()
}

func healthWord(h cardpb.Health) string {
	return strings.ToLower(strings.TrimPrefix(h.String(), "HEALTH_"))
}

// Status is how the card is now.
func (s *Supervisor) Status() status.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.card.Stopped()
	st.State, st.Reasons = s.state()
	st.Stage, st.Sequence, st.Restarts = s.stage, s.sequence, s.restarts
	st.History = slices.Clone(s.history)
	st.Supervisor.PID = os.Getpid()
	st.ReadySeconds = s.ready.Seconds()
	st.Machine.Why = s.why
	if s.machine != nil {
		st.Machine.Kind = string(s.machine.Kind())
	}
	if s.instance != nil {
		st.Machine.PID = s.instance.PID()
	}
	if s.image.Version != "" {
		st.Firmware = status.Firmware{Edition: s.image.Edition, Version: s.image.Version, Kernel: s.image.KernelVersion}
	}
	s.linksStatus(&st)
	s.agentStatus(&st)
	return st
}

// state is the card's state and the reasons for it. Called with mu held.
func (s *Supervisor) state() (status.State, []string) {
	reasons := []string{}
	for component, text := range s.troubles {
		reasons = append(reasons, component+": "+text)
	}
	slices.Sort(reasons)
	switch {
	case s.stopping:
		return status.Stopped, append(reasons, s.stage)
	case s.phase == status.Starting:
		if s.stage != "" {
			reasons = append(reasons, s.stage)
		}
		return status.Starting, reasons
	}
	if s.reply == nil || s.reply.Health == cardpb.Health_HEALTH_HEALTHY && len(reasons) == 0 {
		return status.Healthy, reasons
	}
	for _, r := range s.reply.Reasons {
		reasons = append(reasons, r.Component+": "+s.clearer(r.Component, r.Detail))
	}
	if s.reply.Health == cardpb.Health_HEALTH_STARTING && len(s.troubles) == 0 {
		return status.Starting, reasons
	}
	return status.Degraded, reasons
}

// clearer is a reason of the agent's, or the reason for that where the host
// knows it. Called with mu held.
func (s *Supervisor) clearer(component, detail string) string {
	for _, d := range s.ports {
		if why := d.Att.Waiting(); why != "" && component == "port "+d.spec.Name {
			return why
		}
	}
	return detail
}

// linksStatus adds links and ports. Keepers answer at once, so that mu may be held.
func (s *Supervisor) linksStatus(st *status.Status) {
	for i, d := range s.links {
		l := status.Link{MTU: control.LinkMTU, Host: d.addrs.HostAddrs(), Card: d.addrs.CardAddrs(), Queues: []link.QueueStats{}, Namespace: d.Name == store.ExecDevice}
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
	for i, d := range s.ports {
		if d.keeper != nil {
			st.Ports[i].PumpPID, st.Ports[i].Queues = d.keeper.PumpPID(), d.keeper.Stats()
		}
	}
}

// agentStatus adds what the agent said last.
func (s *Supervisor) agentStatus(st *status.Status) {
	for i := range st.Ports {
		st.Ports[i].State = string(status.Starting)
	}
	if s.reply == nil {
		return
	}
	st.UptimeSeconds = s.reply.UptimeSeconds + time.Since(s.replied).Seconds()
	st.Firmware.Kernel = cmp.Or(s.reply.Kernel, st.Firmware.Kernel)
	st.Firmware.Agent = s.reply.AgentVersion
	hear(&st.Offload, s.reply.Offload)
	for i := range st.Ports {
		p := &st.Ports[i]
		for _, r := range s.reply.Components {
			if r.Component == "port "+p.Name {
				p.State, p.Detail = healthWord(r.State), r.Detail
				if r.State != cardpb.Health_HEALTH_HEALTHY {
					p.Detail = s.clearer(r.Component, r.Detail)
				}
			}
		}
		for _, n := range s.reply.Interfaces {
			if n.Name == p.Name {
				p.MTU = int(n.Mtu)
				p.Addresses = append(p.Addresses, n.Addresses...)
				p.Gateways = append(p.Gateways, n.Gateways...)
			}
		}
	}
}
