package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
)

// kind is a machine that journeys run on.
type kind struct {
	name  string
	start time.Duration // from `toe up` with cached firmware until it returns
	arch  string        // empty: that of the host
}

var kinds = []kind{{name: "uml", start: 30 * time.Second}, {name: "tcg", start: 2 * time.Minute}}

// key is the rest of the card's machine.
func (k kind) key() string {
	if k.arch == "" {
		return ""
	}
	return ", arch: " + k.arch
}

// quick bounds a command that only queries a card.
const quick = 20 * time.Second

// journey is a card between a host and a world.
type journey struct {
	*host
	kind  kind
	world world
	card  status.Status // as it was when last seen healthy
}

func (j *journey) gateway() netip.Addr { return j.card.Link.Card[0] }

// TestJourney does everything with one card that a user does. The steps build on each other: each
// starts with a healthy card.
func TestJourney(t *testing.T) {
	walked := kinds
	if os.Getenv("TOE_E2E_FULL") != "" {
		walked = append(slices.Clip(walked), // s390x is big-endian
			kind{name: "tcg", start: translated, arch: "arm64"}, kind{name: "tcg", start: translated, arch: "s390x"})
	}
	for _, k := range walked {
		t.Run(k.name+k.arch, func(t *testing.T) {
			j := newJourney(t, k)
			for _, step := range []struct {
				name string
				walk func(*journey, *testing.T)
			}{
				{"up", (*journey).up},
				{"status", (*journey).statusFields},
				{"interface", (*journey).hostInterface},
				{"large ping in one packet", (*journey).largePing},
				{"up again", (*journey).upAgain},
				{"exec", (*journey).exec},
				{"exec exit statuses and signals", (*journey).execEnds},
				{"ssh", (*journey).ssh},
				{"console", (*journey).console},
				{"logs", (*journey).logs},
				{"capture", (*journey).captures},
				{"events", (*journey).events},
				{"copies", (*journey).copies},
				{"ls", (*journey).ls},
				{"bulk data both ways", (*journey).bulk},
				{"kill the link's pump", (*journey).killLinkPump},
				{"kill the port's pump", (*journey).killPortPump},
				{"kill the machine", (*journey).killMachine},
				{"reboot", (*journey).reboot},
				{"kill the supervisor", (*journey).killSupervisor},
				{"down", (*journey).down},
			} {
				if !t.Run(step.name, func(t *testing.T) { step.walk(j, t) }) {
					t.Fatalf("the rest of the journey starts with a card that %q leaves healthy", step.name)
				}
			}
		})
	}
}

func newJourney(t *testing.T, k kind) *journey {
	t.Helper()
	h := newHost(t)
	far := h.netns + "w"
	addNetns(t, far)
	ip(t, "-n", far, "tuntap", "add", "wan0", "mode", "tap")
	ip(t, "-n", far, "addr", "add", worldAddr+"/24", "dev", "wan0")
	ip(t, "-n", far, "link", "set", "wan0", "up")
	j := &journey{host: h, kind: k, world: newWorld(t, far)}
	h.spec(t, "card.yaml", fmt.Sprintf(`machine: {kind: %s%s}
ports:
  - name: wan
    attach: netns:%s/wan0
    addresses: [%s/24]
    gateway: [%s]
    dns: [%s]
`, k.name, k.key(), far, cardAddr, worldAddr, worldAddr))
	return j
}

// up starts the card and adds a route to the world, as an administrator would.
func (j *journey) up(t *testing.T) {
	r := j.run(t, j.kind.start, 0, "up", "-f", filepath.Join(j.dir, "card.yaml"))
	t.Logf("up took %s", r.took.Round(time.Millisecond))
	j.card = j.status(t, "card0")
	if j.card.State != status.Healthy {
		t.Fatalf("state %s: %v", j.card.State, j.card.Reasons)
	}
	if !strings.Contains(r.out, "toe ssh") && !strings.Contains(r.out, "toe exec") {
		t.Errorf("up does not say what to try next: %s", r.out)
	}
	j.route(t)
}

func (j *journey) route(t *testing.T) {
	t.Helper()
	ip(t, "-n", j.netns, "route", "add", worldNet, "via", j.gateway().String())
}

// statusFields checks the fields that scripts rely on.
func (j *journey) statusFields(t *testing.T) {
	var st map[string]any
	if err := json.Unmarshal([]byte(j.run(t, quick, 0, "status", "--json").out), &st); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]func(any) bool{
		"name":                 is("card0"),
		"state":                is("healthy"),
		"reasons":              func(v any) bool { list, ok := v.([]any); return ok && len(list) == 0 },
		"machine.kind":         is(j.kind.name),
		"machine.pid":          positive,
		"pump.pid":             positive,
		"link.interface":       is("toe0"),
		"link.mtu":             is(65535.0),
		"link.host":            addresses(2),
		"link.card":            addresses(2),
		"link.queues":          filled,
		"ports":                filled,
		"firmware.edition":     is("micro"),
		"firmware.version":     func(v any) bool { return v != "" },
		"firmware.kernel":      func(v any) bool { return v != "" },
		"uptime_seconds":       positive,
		"supervisor.pid":       positive,
		"machine.cpus":         is(1.0),
		"ports.0.name":         is("wan"),
		"ports.0.state":        is("healthy"),
		"ports.0.addresses":    func(v any) bool { return slices.Contains(v.([]any), any(cardAddr+"/24")) },
		"link.queues.0":        func(v any) bool { _, ok := v.(map[string]any)["to_card"]; return ok },
		"exec.namespace":       is(true),
		"exec.mtu":             is(65535.0),
		"firmware.agent":       func(v any) bool { return v != "" },
		"machine.memory_bytes": is(float64(256 << 20)),
	} {
		v, ok := lookUp(st, path)
		if !ok || !want(v) {
			t.Errorf("status --json: %s is %v", path, v)
		}
	}
}

func is(want any) func(any) bool { return func(v any) bool { return v == want } }

func positive(v any) bool { n, ok := v.(float64); return ok && n > 0 }

func filled(v any) bool { list, ok := v.([]any); return ok && len(list) > 0 }

func addresses(n int) func(any) bool {
	return func(v any) bool {
		list, ok := v.([]any)
		for _, a := range list {
			text, isText := a.(string)
			_, err := netip.ParseAddr(text)
			ok = ok && isText && err == nil
		}
		return ok && len(list) == n
	}
}

// lookUp returns the value at a path such as a.0.b in decoded JSON.
func lookUp(v any, path string) (any, bool) {
	for _, key := range strings.Split(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			next, ok := at[key]
			if !ok {
				return nil, false
			}
			v = next
		case []any:
			if key != "0" || len(at) == 0 {
				return nil, false
			}
			v = at[0]
		default:
			return nil, false
		}
	}
	return v, true
}

func (j *journey) hostInterface(t *testing.T) {
	var links []struct {
		Type  string   `json:"link_type"`
		MTU   int      `json:"mtu"`
		Flags []string `json:"flags"`
	}
	if err := json.Unmarshal([]byte(ip(t, "-n", j.netns, "-d", "-j", "link", "show", "toe0")), &links); err != nil {
		t.Fatal(err)
	}
	if len(links) != 1 || links[0].Type != "none" || links[0].MTU != 65535 || !slices.Contains(links[0].Flags, "UP") {
		t.Errorf("toe0 is %+v; want link type none, MTU 65535, up", links)
	}
}

// upAgain must change nothing.
func (j *journey) upAgain(t *testing.T) {
	before := descendants(j.card.Supervisor.PID)
	for _, args := range [][]string{{"up"}, {"up", "-f", filepath.Join(j.dir, "card.yaml")}} {
		j.run(t, quick, 0, args...)
	}
	now := j.status(t, "card0")
	if now.Supervisor != j.card.Supervisor || now.Machine.PID != j.card.Machine.PID || now.Pump != j.card.Pump || now.Restarts != 0 {
		t.Errorf("processes before %+v %+v %+v, after %+v %+v %+v",
			j.card.Supervisor, j.card.Machine, j.card.Pump, now.Supervisor, now.Machine, now.Pump)
	}
	if after := descendants(j.card.Supervisor.PID); len(after) != len(before) {
		t.Errorf("%d processes before, %d after", len(before), len(after))
	}
}

func (j *journey) ls(t *testing.T) {
	var all []status.Status
	if err := json.Unmarshal([]byte(j.run(t, quick, 0, "ls", "--json").out), &all); err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].Name != "card0" || all[0].State != status.Healthy {
		t.Errorf("ls --json: %+v", all)
	}
}

// bulk sends data through the card, from the host's own network, and back.
func (j *journey) bulk(t *testing.T) {
	size := int64(256 << 20)
	if j.kind.name != "uml" {
		size = 32 << 20
	}
	c, err := dialIn(j.netns, "tcp", net.JoinHostPort(worldAddr, "9"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	began := time.Now()
	if err := exchange(c, size, 1); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB each way in %s", size>>20, time.Since(began).Round(time.Millisecond))
	// With the kernel's own tcp_mem and tcp_rmem, a small card drops received segments in its first
	// transfers, and its peer retransmits them.
	out := j.run(t, quick, 0, "ssh", "card0", "--", "cat", "/proc/net/netstat").out
	if n := parseCounters(out)["TcpExt.TCPRcvQDrop"]; n != 0 {
		t.Errorf("the card has dropped %d segments for want of TCP memory", n)
	}
}

// down checks that nothing is left: no process, interface, namespace, socket or mount.
func (j *journey) down(t *testing.T) {
	j.status(t, "card0")
	j.run(t, 40*time.Second, 0, "down")
	j.gone(t, 3*time.Second)
	if links := ip(t, "-n", j.netns, "-j", "link", "show"); strings.Contains(links, "toe") {
		t.Errorf("interfaces after down: %s", links)
	}
	j.runtimeEmpty(t)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), j.dir) {
		t.Errorf("mounts after down: %s", mounts)
	}
	if st := j.status(t, "card0"); st.State != status.Stopped || st.Machine.PID != 0 || st.Pump.PID != 0 {
		t.Errorf("status after down: %+v", st)
	}
	j.run(t, quick, 0, "down") // a second down is harmless
	j.run(t, quick, 2, "rm")
	j.run(t, quick, 0, "rm", "card0")
	if _, err := os.Stat(filepath.Join(j.dir, "state", "card0")); err == nil {
		t.Error("rm leaves the card's state")
	}
}

// runtimeEmpty checks that only the logs, which show how the card ended, and the lock are left.
func (j *journey) runtimeEmpty(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(j.runtime("card0"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "supervisor.log", "supervisor.log.1", "console.log", "console.log.1", "supervisor.pid":
		default:
			t.Errorf("left in the runtime folder: %s", e.Name())
		}
	}
}
