package e2e

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/toe-project/toe/card/status"
)

// pumpGap is how long a link may be silent when its pump is killed.
const pumpGap = time.Second

func (j *journey) killLinkPump(t *testing.T) {
	j.killPump(t, func(st status.Status) int { return st.Pump.PID })
}

func (j *journey) killPortPump(t *testing.T) {
	j.killPump(t, func(st status.Status) int { return st.Ports[0].PumpPID })
}

// killPump kills a pump under traffic. Packets in flight are lost. The card, the host's
// configuration and the connections stay.
func (j *journey) killPump(t *testing.T, pumpOf func(status.Status) int) {
	before, had := j.status(t, "card0"), j.configured(t)
	up := j.cardUptime(t)
	s, p := startStream(t, j.netns), startProbe(t, j.netns)
	idle := startIdleReader(t, j.netns)
	s.moves(t, 10*time.Second)
	p.gap.Store(0)
	kill(t, pumpOf(before))
	p.answers(t, pumpGap)
	stalled := s.moves(t, 5*time.Second)
	after := j.await(t, "card0", 5*time.Second, "another pump", func(st status.Status) error {
		if pid := pumpOf(st); pid == 0 || pid == pumpOf(before) || st.State != status.Healthy {
			return fmt.Errorf("pump %d, state %s %v", pid, st.State, st.Reasons)
		}
		return nil
	})
	gap := time.Duration(p.gap.Load())
	t.Logf("no packet for %s; TCP goes on after %s", gap.Round(time.Millisecond), stalled.Round(time.Millisecond))
	if gap > pumpGap {
		t.Errorf("no packet for %s; at most %s", gap, pumpGap)
	}
	if after.Machine.PID != before.Machine.PID || after.Restarts != before.Restarts {
		t.Errorf("machine %d and %d restarts before, %d and %d after", before.Machine.PID, before.Restarts, after.Machine.PID, after.Restarts)
	}
	if now := j.cardUptime(t); now < up {
		t.Errorf("the card was up for %.1f s before and %.1f s after: it was rebooted", up, now)
	}
	idle.waits(t)
	j.unchanged(t, had)
	j.told(t, before, after, "pump")
	j.card = after
}

// killMachine kills the machine under traffic. It is started again, and the host's interface,
// addresses and routes stay.
func (j *journey) killMachine(t *testing.T) {
	j.restart(t, "machine", func(st status.Status) { kill(t, st.Machine.PID) })
}

func (j *journey) reboot(t *testing.T) {
	j.restart(t, "rebooted", func(status.Status) {
		// The connection may break before the command's exit status comes.
		if _, err := j.try(quick, nil, "ssh", "--", "reboot"); err != nil {
			t.Fatal(err)
		}
	})
}

func (j *journey) restart(t *testing.T, word string, how func(status.Status)) {
	before, had := j.status(t, "card0"), j.configured(t)
	s, p := startStream(t, j.netns), startProbe(t, j.netns)
	idle := startIdleReader(t, j.netns)
	s.moves(t, 10*time.Second)
	began := time.Now()
	how(before)
	ends := before.Offload.Mode == "endpoint"
	if ends {
		idle.ends(t)
		s.breaks(t)
	}
	after := j.await(t, "card0", j.kind.start, "the card to be back", func(st status.Status) error {
		if st.State != status.Healthy || st.Machine.PID == before.Machine.PID || st.Machine.PID == 0 {
			return fmt.Errorf("machine %d, state %s %v", st.Machine.PID, st.State, st.Reasons)
		}
		return nil
	})
	t.Logf("back after %s", time.Since(began).Round(time.Millisecond))
	p.answers(t, 5*time.Second)
	if !ends { // a forwarded connection has its ends elsewhere
		s.moves(t, 20*time.Second)
		idle.waits(t)
	}
	if after.Supervisor != before.Supervisor || after.Restarts != before.Restarts+1 {
		t.Errorf("supervisor %d and %d restarts before, %d and %d after", before.Supervisor.PID, before.Restarts, after.Supervisor.PID, after.Restarts)
	}
	if after.UptimeSeconds > time.Since(began).Seconds()+1 {
		t.Errorf("uptime %.1f s, %s after the restart", after.UptimeSeconds, time.Since(began))
	}
	j.unchanged(t, had)
	j.told(t, before, after, word)
	j.card = after
}

// killSupervisor kills the supervisor. The card dies with it, status reports that, and up starts it
// again.
func (j *journey) killSupervisor(t *testing.T) {
	before := j.status(t, "card0")
	s, p := startStream(t, j.netns), startProbe(t, j.netns)
	idle := startIdleReader(t, j.netns)
	s.moves(t, 10*time.Second)
	kill(t, before.Supervisor.PID)
	j.gone(t, 5*time.Second)
	// The kernel takes a moment to release what a killed process held.
	j.await(t, "card0", 2*time.Second, "the status to tell of the killed supervisor", func(st status.Status) error {
		if st.State != status.Failed || !strings.Contains(strings.Join(st.Reasons, " "), "killed") || !st.Killed {
			return fmt.Errorf("%s %v; want failed, and that the supervisor was killed", st.State, st.Reasons)
		}
		return nil
	})
	j.run(t, j.kind.start, 0, "up")
	idle.ends(t)
	s.breaks(t)
	j.card = j.status(t, "card0")
	if j.card.State != status.Healthy || j.card.Link.Interface != "toe0" {
		t.Fatalf("after up: %s %v, link %s", j.card.State, j.card.Reasons, j.card.Link.Interface)
	}
	j.route(t)
	p.answers(t, 5*time.Second)
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("process %d: there is none to kill", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}

// configured returns the host's configuration of its interface and the routes over it. No lifetime
// and no metric here changes by itself.
func (j *journey) configured(t *testing.T) string {
	t.Helper()
	var all string
	for _, args := range [][]string{{"addr", "show", "dev", "toe0"}, {"route", "show", "table", "all"}, {"-6", "route", "show", "table", "all"}} {
		all += ip(t, append([]string{"-n", j.netns}, args...)...)
	}
	return all
}

func (j *journey) unchanged(t *testing.T, had string) {
	t.Helper()
	// A TUN without a reader has no carrier. The carrier comes back by itself.
	until(t, 2*time.Second, "addresses and routes to be as before", func() error {
		if now := j.configured(t); now != had {
			return fmt.Errorf("before:\n%s\nnow:\n%s", had, now)
		}
		return nil
	})
}

// told waits for a new event in the card's history.
func (j *journey) told(t *testing.T, before, after status.Status, word string) {
	t.Helper()
	var last time.Time
	if n := len(before.History); n > 0 {
		last = before.History[n-1].Time
	}
	var news []string
	for _, e := range after.History {
		if e.Time.After(last) {
			news = append(news, e.Text)
		}
	}
	if !strings.Contains(strings.Join(news, "\n"), word) {
		t.Errorf("status does not tell of it: %q has no %q", news, word)
	}
	if out := j.run(t, quick, 0, "status").out; len(news) > 0 && !strings.Contains(out, news[0]) {
		t.Errorf("toe status does not show %q: %s", news[0], out)
	}
}

// cardUptime returns the card's own uptime in seconds.
func (j *journey) cardUptime(t *testing.T) float64 {
	t.Helper()
	r := j.run(t, quick, 0, "ssh", "--", "cat", "/proc/uptime")
	text, _, _ := strings.Cut(r.out, " ")
	up, err := strconv.ParseFloat(text, 64)
	if err != nil {
		t.Fatal(errors.Join(err, errors.New(r.out)))
	}
	return up
}
