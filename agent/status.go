package agent

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// status is everything the host may want to know, as it is now.
func (a *Agent) status() *cardpb.StatusResponse {
	components := a.health()
	servers := a.nameServers()
	a.mu.Lock()
	conf, ready := a.conf, a.ready
	a.mu.Unlock()
	m := memory()
	done := a.offloadStatus()
	out := &cardpb.StatusResponse{
		Health: overall(components), Name: conf.Name, Hostname: conf.EffectiveHostname(),
		UptimeSeconds: uptime().Seconds(), Kernel: kernel(), AgentVersion: a.opts.Version,
		FirmwareVersion: conf.Firmware, Memory: &cardpb.Memory{Total: m.total, Available: m.available},
		TimeUnixNano: time.Now().UnixNano(), ReadySeconds: ready.Seconds(),
		Offload: done,
		Configuration: &cardpb.Configuration{
			Version: uint32(max(conf.Version, 1)), Digest: conf.Digest, Ignored: conf.Ignored,
		},
		ImageDigest: a.opts.Image, BootId: bootID(), Capabilities: capabilities(),
	}
	for _, c := range components {
		r := &cardpb.Reason{Component: c.component, State: c.state, Detail: c.detail}
		out.Components = append(out.Components, r)
		if c.state != healthy {
			out.Reasons = append(out.Reasons, r)
		}
	}
	for _, s := range servers {
		out.DnsServers = append(out.DnsServers, s.String())
	}
	for _, l := range conf.Links {
		out.Interfaces = append(out.Interfaces, a.device(l.Name, "link", l.MAC))
	}
	for _, p := range conf.Ports {
		out.Interfaces = append(out.Interfaces, a.device(p.Name, "port", p.MAC))
	}
	return out
}

// capabilities is what the host may ask of this agent.
func capabilities() []string {
	return []string{control.CapIgnore, control.CapMode + control.ModeEndpoint, control.CapMode + control.ModeRouter}
}

// bootID is the kernel's name for its present life.
func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

// configHealth tells of keys that this agent does not know. They do not
// degrade the card: the host has listed those that matter as critical.
func configHealth(c *control.Config) []reason {
	if len(c.Ignored) == 0 {
		return nil
	}
	detail := "ignored, this agent does not know: " + strings.Join(c.Ignored, ", ")
	return []reason{{component: "configuration", state: healthy, detail: detail}}
}

func (a *Agent) health() []reason {
	a.mu.Lock()
	ports, conf := slices.Clone(a.ports), a.conf
	fireErr, guarding := a.fireErr, a.guarding
	services := maps.Clone(a.services)
	speaking := a.offloadHealth()
	a.mu.Unlock()
	var out []reason
	for _, l := range a.links {
		out = append(out, l.health())
	}
	waiting := false // a port that may yet bring what is missing
	for _, p := range ports {
		h := p.health()
		waiting = waiting || h.state == starting
		out = append(out, h)
	}
	fire := reason{component: "firewall", state: healthy}
	switch {
	case fireErr != nil:
		fire = fire.with(degraded, fireErr.Error()+"; ports stay down without it")
	case !guarding:
		fire = fire.with(starting, "rules are being loaded")
	}
	waiting = waiting || !guarding
	out = append(out, configHealth(conf)...)
	out = append(out, speaking...)
	out = append(out, fire, dnsHealth(a.nameServers(), wantsDNS(conf), waiting, a.dns.silent(time.Now())), a.clock.health())
	for _, name := range slices.Sorted(maps.Keys(services)) {
		out = append(out, reason{name, degraded, services[name].Error()})
	}
	return out
}

func (a *Agent) device(name, kind, mac string) *cardpb.Interface {
	out := &cardpb.Interface{Name: name, Kind: kind, Mac: mac}
	dev, err := a.nl.LinkByName(name)
	if err != nil {
		return out
	}
	at := dev.Attrs()
	out.Mtu, out.Carrier = uint32(at.MTU), at.RawFlags&unix.IFF_LOWER_UP != 0
	for _, p := range addresses(a.nl, dev) {
		out.Addresses = append(out.Addresses, p.String())
	}
	for _, g := range gateways(a.nl, dev) {
		out.Gateways = append(out.Gateways, g.String())
	}
	if s := at.Statistics; s != nil {
		out.RxPackets, out.TxPackets, out.RxBytes, out.TxBytes = s.RxPackets, s.TxPackets, s.RxBytes, s.TxBytes
	}
	return out
}

// dnsHealth does not ask the internet anything: it says what is known, and for
// how long the servers have been silent when the host asked.
func dnsHealth(servers []netip.Addr, wanted, waiting bool, silent time.Duration) reason {
	r := reason{component: "dns", state: healthy}
	switch {
	case len(servers) > 0 && silent > 0:
		return r.with(degraded, fmt.Sprintf("for %v no name server has answered: %v", silent.Round(time.Second), servers))
	case len(servers) > 0:
		return r
	case !wanted:
		return r.with(healthy, "no name server is configured")
	case waiting:
		return r.with(starting, "no name server known yet")
	}
	return r.with(degraded, "no name server known: neither the configuration nor a port names one")
}

// wantsDNS says whether anything in the configuration promises name servers.
func wantsDNS(c *control.Config) bool {
	for _, p := range c.Ports {
		if p.HasDHCP() || p.HasRA() {
			return true
		}
	}
	return false
}

// memoryInfo is in bytes.
type memoryInfo struct{ total, available uint64 }

func memory() memoryInfo {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return memoryInfo{}
	}
	return memoryInfo{meminfo(data, "MemTotal:"), meminfo(data, "MemAvailable:")}
}

// meminfo reads one line of /proc/meminfo, "key   number kB".
func meminfo(data []byte, key string) uint64 {
	for line := range bytes.Lines(data) {
		if rest, ok := strings.CutPrefix(string(line), key); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				n, _ := strconv.ParseUint(f[0], 10, 54)
				return n << 10
			}
		}
	}
	return 0
}

// uptime is the time since the kernel's start.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano())
}

// kernel is as uname -r says.
func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
