package agent

import (
	"net/netip"
	"testing"
)

func TestOverall(t *testing.T) {
	for _, tt := range []struct {
		states []health
		want   health
	}{
		{nil, healthy},
		{[]health{healthy, healthy}, healthy},
		{[]health{healthy, starting}, starting},
		{[]health{starting, degraded, healthy}, degraded},
	} {
		var all []reason
		for _, s := range tt.states {
			all = append(all, reason{state: s})
		}
		if got := overall(all); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.states, got, tt.want)
		}
	}
}

func TestDNSHealth(t *testing.T) {
	some := []netip.Addr{netip.MustParseAddr("192.0.2.53")}
	for name, tt := range map[string]struct {
		servers         []netip.Addr
		wanted, waiting bool
		want            health
	}{
		"known":             {some, true, false, healthy},
		"no question":       {nil, false, false, healthy},
		"port may bring it": {nil, true, true, starting},
		"none":              {nil, true, false, degraded},
	} {
		if got := dnsHealth(tt.servers, tt.wanted, tt.waiting, 0); got.state != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestMeminfo(t *testing.T) {
	data := []byte("MemTotal:         262144 kB\nMemFree: 5 kB\nMemAvailable:\n")
	if got := meminfo(data, "MemTotal:"); got != 256<<20 {
		t.Errorf("total %d", got)
	}
	if got := meminfo(data, "MemAvailable:") + meminfo(data, "None:"); got != 0 {
		t.Errorf("available %d", got)
	}
}

func TestBufferSizes(t *testing.T) {
	const mib = 1 << 20
	for memory, want := range map[uint64][2]uint64{
		64 * mib:   {4 * mib, mib / 2},
		256 * mib:  {16 * mib, mib},
		4096 * mib: {32 * mib, 4 * mib},
		0:          {mib, mib / 2},
	} {
		if top, middle := bufferSizes(memory); top != want[0] || middle != want[1] {
			t.Errorf("%d MiB: %d and %d, want %v", memory/mib, top, middle, want)
		}
	}
}
