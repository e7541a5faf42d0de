package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/beevik/ntp"

	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/firmware"
	"github.com/toe-project/toe/internal/arch"
	"github.com/toe-project/toe/machine"
)

// services is a card of edition debian with services, between a host and a world. memcached is one of
// an administrator's own, in testdata/services.
type services struct{ *debian }

// serviceLimit bounds an apply that starts a program, beside busy loops.
const serviceLimit = 2 * time.Minute

// TestServices does with the services of a card what an administrator does, and what goes wrong.
func TestServices(t *testing.T) {
	if os.Getenv("TOE_E2E_FULL") == "" {
		t.Skip("takes minutes: test/run full")
	}
	img, err := firmware.Find(cache, firmware.Debian, machine.UML, arch.Host().Name)
	if err != nil {
		t.Skip(err)
	}
	for _, want := range []string{"chrony", "memcached"} {
		if !hasPackage(img.Packages, want) {
			t.Skipf("the image has no %s; `toe firmware build --edition debian --machine uml -f test/e2e/testdata/services.yaml`", want)
		}
	}
	s := &services{&debian{newJourney(t, kind{name: "uml", start: debianStart["uml"]})}}
	if err := os.CopyFS(filepath.Join(s.dir, "services"), os.DirFS("testdata/services")); err != nil {
		t.Fatal(err)
	}
	s.write(t, "time: {listen: [any]}\n  memcached: {listen: [wan]}")
	for _, step := range []debianStep{
		{"up", (*debian).up},
		{"the world asks", func(d *debian, t *testing.T) { s.asked(t) }},
		{"status, ls and logs", func(d *debian, t *testing.T) { s.verbs(t) }},
		{"a dry run", func(d *debian, t *testing.T) { s.dryRun(t) }},
		{"what is refused", func(d *debian, t *testing.T) { s.refused(t) }},
		{"a change", func(d *debian, t *testing.T) { s.change(t) }},
		{"the program is killed", func(d *debian, t *testing.T) { s.killed(t) }},
		{"the card restarts", func(d *debian, t *testing.T) { s.restarted(t) }},
		{"removed", func(d *debian, t *testing.T) { s.removed(t) }},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.walk(s.debian, t) }) {
			t.Fatalf("the rest of the journey starts with a card that %q leaves healthy", step.name)
		}
	}
	s.run(t, time.Minute, 0, "down")
}

// write writes card.yaml with these services.
func (s *services) write(t *testing.T, list string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "card.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(text), "firmware:")
	if list != "" {
		list = "services:\n  " + list + "\n"
	}
	return s.spec(t, "card.yaml", head+"firmware: {edition: debian}\n"+list)
}

// cached asks memcached for a setting.
func (s *services) cached(netns, at, setting string) (string, error) {
	c, err := dialIn(netns, "tcp", net.JoinHostPort(at, "11211"), 2*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprint(c, "stats settings\r\n"); err != nil {
		return "", err
	}
	for lines := bufio.NewScanner(c); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "STAT "+setting+" "); ok {
			return value, nil
		}
	}
	return "", fmt.Errorf("no %s", setting)
}

// has checks what memcached says in the world.
func (s *services) has(t *testing.T, setting, want string) {
	t.Helper()
	if got, err := s.cached(s.world.netns, cardAddr, setting); err != nil || got != want {
		t.Errorf("memcached says %s %s, %v; want %s", setting, got, err, want)
	}
}

// asked: the services answer in the world, through the card's firewall.
func (s *services) asked(t *testing.T) {
	s.has(t, "maxbytes", fmt.Sprint(16<<20))
	r, err := ntp.QueryWithOptions(cardAddr, ntp.QueryOptions{Timeout: 5 * time.Second,
		Dialer: func(_, remote string) (net.Conn, error) { return dialIn(s.world.netns, "udp", remote, 5*time.Second) }})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Validate(); err != nil || r.Stratum != 10 || r.ClockOffset.Abs() > 5*time.Second {
		t.Errorf("stratum %d, offset %v, %v", r.Stratum, r.ClockOffset, err)
	}
}

func (s *services) verbs(t *testing.T) {
	st := s.status(t, "card0")
	if len(st.Services) != 2 || st.Services[0].Name != "memcached" || st.Services[1].State != "healthy" ||
		!strings.Contains(st.Services[1].Detail, "chrony 4") || !strings.Contains(st.Services[1].Detail, "of the image") {
		t.Errorf("%+v", st.Services)
	}
	for _, c := range []struct{ args, want string }{
		{"service ls", "memcached"}, {"status", "service   time, healthy"},
		{"service status time", "chrony.service"}, {"service logs time", "chronyd"},
		{"service restart time", "service time was restarted"},
	} {
		if out := s.run(t, debianQuick["uml"], 0, strings.Fields(c.args)...).out; !strings.Contains(out, c.want) {
			t.Errorf("%s: %s", c.args, out)
		}
	}
	if r := s.run(t, quick, 2, "service", "logs", "tiem"); !strings.Contains(r.err, "it has memcached, time") {
		t.Errorf("%s", r)
	}
}

func (s *services) dryRun(t *testing.T) {
	path := s.write(t, "time: {listen: [any]}\n  memcached: {listen: [wan], memory: 24}")
	r := s.run(t, quick, 0, "apply", "--dry-run", "-f", path)
	if want := "-m 16\n+-m 24\n"; !strings.Contains(r.out, want) || !strings.Contains(r.out, "+++ b/memcached/memcached.conf") {
		t.Errorf("%s", r)
	}
	s.has(t, "maxbytes", fmt.Sprint(16<<20))
}

// refused: the error names the line, and the old state still serves.
func (s *services) refused(t *testing.T) {
	for _, c := range []struct{ services, want string }{
		// Nothing of these reaches the card.
		{"time: {}\n  memcached: {memry: 8}", `card.yaml:11: services.memcached.memry: unknown key "memry"; did you mean "memory"?`},
		{"time: {}\n  memcached: {listen: [192.0.2.99]}", `card.yaml:11: services.memcached.listen[0]: "192.0.2.99" is no port and no address`},
		{"time: {}\n  memcached: {port: 7464}", `card.yaml:11: services.memcached: tcp port 7464 is the card's own control API`},
		// The program's own checker, with its words.
		{"time: {}\n  memcached:\n    listen: [wan]\n    native: what is this", `card.yaml:11: services.memcached: the card refuses`},
		{"time: {listen: [any], native: nonsense}\n  memcached: {listen: [wan]}", `Invalid directive at line 5`},
		// It is accepted, and the program ends at once: the old one is put back.
		{"time: {listen: [any]}\n  memcached: {listen: [wan], native: -c 0}", `memcached.service ended (exit`},
		// The package is not there, and the world has no mirror.
		{"time: {listen: [any]}\n  memcached: {listen: [wan]}\n  absent: {}", `card.yaml:12: services.absent: the card refuses: failed_precondition: service absent: package toe-no-such-package is missing, and cannot be installed`},
	} {
		r := s.run(t, serviceLimit, 1, "apply", "-f", s.write(t, c.services))
		if !strings.Contains(r.err, c.want) {
			t.Errorf("%s\nwant %s", r, c.want)
		}
		s.has(t, "maxbytes", fmt.Sprint(16<<20))
	}
	if st := s.status(t, "card0"); st.State != status.Healthy || len(st.Services) != 2 {
		t.Errorf("state %s %v, %+v", st.State, st.Reasons, st.Services)
	}
}

// change: the new files are in force, and applying them twice changes nothing. A service for the host
// alone is not there for the world.
func (s *services) change(t *testing.T) {
	path := s.write(t, "time: {listen: [any]}\n  memcached: {listen: [host], memory: 24}")
	s.run(t, serviceLimit, 0, "apply", "-f", path)
	if r := s.run(t, quick, 0, "apply", "-f", path); !strings.Contains(r.out, "has this specification already") {
		t.Errorf("%s", r)
	}
	if got, err := s.cached(s.netns, s.gateway().String(), "maxbytes"); err != nil || got != fmt.Sprint(24<<20) {
		t.Errorf("the host sees %s, %v", got, err)
	}
	if got, err := s.cached(s.world.netns, cardAddr, "maxbytes"); err == nil {
		t.Errorf("the world sees %s", got)
	}
}

// killed: systemd starts the program again, and the status says that it ended.
func (s *services) killed(t *testing.T) {
	s.onCard(t, "systemctl kill -s KILL memcached")
	s.await(t, "card0", time.Minute, "a restarted program in the status", func(st status.Status) error {
		for _, one := range st.Services {
			if one.Name == "memcached" && one.State == "healthy" && strings.Contains(one.Detail, "restarted once: signal 9") {
				return nil
			}
		}
		return fmt.Errorf("%+v", st.Services)
	})
	if _, err := s.cached(s.netns, s.gateway().String(), "maxbytes"); err != nil {
		t.Error(err)
	}
}

// restarted: the services come with the card, with nothing of them on its disk.
func (s *services) restarted(t *testing.T) {
	before := s.status(t, "card0")
	s.run(t, quick, 0, "reset")
	s.await(t, "card0", s.kind.start, "the card to be back with its services", func(st status.Status) error {
		if st.State != status.Healthy || st.Machine.PID == before.Machine.PID || st.Machine.PID == 0 || len(st.Services) != 2 {
			return fmt.Errorf("machine %d, state %s %v", st.Machine.PID, st.State, st.Reasons)
		}
		return nil
	})
	if got, err := s.cached(s.netns, s.gateway().String(), "maxbytes"); err != nil || got != fmt.Sprint(24<<20) {
		t.Errorf("after a reset: %s, %v", got, err)
	}
	if found := s.onCard(t, "grep -rls 11211 /etc /data 2>/dev/null | grep -v '^/etc/memcached.conf$'; true"); found != "" {
		t.Errorf("on the disk: %s", found)
	}
}

func (s *services) removed(t *testing.T) {
	s.run(t, serviceLimit, 0, "apply", "-f", s.write(t, ""))
	if got, err := s.cached(s.netns, s.gateway().String(), "maxbytes"); err == nil {
		t.Errorf("a service that is removed says %s", got)
	}
	if out := s.onCard(t, "ls /run/toe/service; systemctl is-active chrony memcached; true"); strings.TrimSpace(out) != "inactive\ninactive" {
		t.Errorf("on the card: %s", out)
	}
	if out := s.run(t, quick, 0, "service", "ls").out; !strings.Contains(out, "card0 has no services; there are ") {
		t.Error(out)
	}
}
