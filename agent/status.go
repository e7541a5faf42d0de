package agent

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/toe-project/toe/control"
	"github.com/toe-project/toe/control/cardpb"
)

// status is the state of the whole card, as it is now.
func (a *Agent) status() *cardpb.StatusResponse {
	components := a.health()
	conf, m := a.config(), memory()
	out := &cardpb.StatusResponse{
		Health: overall(components), Name: conf.Name, Hostname: conf.EffectiveHostname(),
		UptimeSeconds: uptime().Seconds(), Kernel: kernel(), AgentVersion: a.opts.Version,
		FirmwareVersion: conf.Firmware, Memory: &cardpb.Memory{Total: m.total, Available: m.available},
		TimeUnixNano: time.Now().UnixNano(),
		Configuration: &cardpb.Configuration{
			Version: uint32(max(conf.Version, 1)), Digest: conf.Digest, Ignored: conf.Ignored,
		},
		ImageDigest: a.opts.Image, BootId: bootID(), Capabilities: []string{control.CapIgnore},
	}
	if conf.ZeroTrust {
		out.Capabilities = append(out.Capabilities, control.CapZeroTrust)
	}
	for _, c := range components {
		r := &cardpb.Reason{Component: c.component, State: c.state, Detail: c.detail}
		out.Components = append(out.Components, r)
		if c.state != healthy {
			out.Reasons = append(out.Reasons, r)
		}
	}
	for _, p := range a.parts {
		p.status(out)
	}
	return out
}

func (a *Agent) health() []reason {
	out := a.configHealth()
	for _, p := range a.parts {
		out = append(out, p.health()...)
	}
	return out
}

// bootID is the kernel's name for its present life.
func bootID() string {
	data, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(data))
}

// configHealth is empty when all of the configuration is in force. A key that
// this agent does not know does not degrade the card: the host lists those
// that matter as critical.
func (a *Agent) configHealth() []reason {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := reason{component: "configuration", state: healthy}
	switch ignored := a.conf.Ignored; {
	case a.torn != nil:
		return []reason{r.with(degraded, "a change failed and could not be taken back: "+a.torn.Error())}
	case len(ignored) > 0:
		return []reason{r.with(healthy, "ignored, this agent does not know: "+strings.Join(ignored, ", "))}
	}
	return nil
}

// interfaceStatus is empty but for its names where there is no such device.
func interfaceStatus(nl *netlink.Handle, name, kind, mac string) *cardpb.Interface {
	out := &cardpb.Interface{Name: name, Kind: kind, Mac: mac}
	dev, err := nl.LinkByName(name)
	if err != nil {
		return out
	}
	at := dev.Attrs()
	out.Mtu, out.Carrier = uint32(at.MTU), at.RawFlags&unix.IFF_LOWER_UP != 0
	for _, p := range addresses(nl, dev) {
		out.Addresses = append(out.Addresses, p.String())
	}
	for _, g := range gateways(nl, dev) {
		out.Gateways = append(out.Gateways, g.String())
	}
	if s := at.Statistics; s != nil {
		out.RxPackets, out.TxPackets, out.RxBytes, out.TxBytes = s.RxPackets, s.TxPackets, s.RxBytes, s.TxBytes
	}
	return out
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
