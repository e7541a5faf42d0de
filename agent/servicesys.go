package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/toe-project/toe/control"
)

// installedFile lists the packages that the agent has installed. It lies where they do, in the slot.
const installedFile = "/var/lib/toe-agent/installed"

func newServiceSystem(e *env) serviceSystem {
	y := serviceSystem{
		dir: control.ServicesDir, units: "/run/systemd/system", ready: systemdReady,
		run: e.procs.output, listens: listensAt, installed: installedFile,
		policy: "/usr/sbin/policy-rc.d", pause: 200 * time.Millisecond,
	}
	y.users = y.portUsers
	return y
}

// maxWords bounds what is kept of a program's output, in bytes.
const maxWords = 64 << 10

// output runs a program of the card's Debian and returns what it says.
func (p *procs) output(ctx context.Context, limit time.Duration, words ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"}
	cmd.Dir, cmd.WaitDelay = "/", time.Second
	out := &boundedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	err := p.start(cmd)
	if err == nil {
		err = p.wait(cmd)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("not done after %v", limit)
	}
	return out.String(), err
}

// boundedBuffer keeps the end of what is written.
type boundedBuffer struct{ bytes.Buffer }

func (b *boundedBuffer) Write(data []byte) (int, error) {
	n, err := b.Buffer.Write(data)
	if extra := b.Len() - maxWords; extra > 0 {
		b.Next(extra)
	}
	return n, err
}

// show asks systemd for the states of units.
func (y *serviceSystem) show(ctx context.Context, units []string) (map[string]unitState, error) {
	out, err := y.run(ctx, commandLimit, append([]string{
		"systemctl", "show", "-p", "Id,ActiveState,NRestarts,Result,ExecMainCode,ExecMainStatus"}, units...)...)
	if err != nil {
		return nil, fmt.Errorf("systemctl show: %w: %.200s", err, out)
	}
	states, i := map[string]unitState{}, 0
	for block := range strings.SplitSeq(strings.TrimSpace(out), "\n\n") {
		if i < len(units) { // in the order of the question; Id may be that of an alias
			states[units[i]] = parseUnit(block)
		}
		i++
	}
	return states, nil
}

func parseUnit(block string) unitState {
	values := map[string]string{}
	for line := range strings.Lines(block) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = value
		}
	}
	u := unitState{active: values["ActiveState"]}
	u.restarts, _ = strconv.Atoi(values["NRestarts"])
	switch code, status := values["ExecMainCode"], values["ExecMainStatus"]; {
	case values["Result"] != "success" && values["Result"] != "":
		u.ended = values["Result"]
	case code == "2" || code == "3": // CLD_KILLED, CLD_DUMPED
		u.ended = "signal " + status
	case code == "1":
		u.ended = "exit status " + status
	default:
		u.ended = "systemd has not kept how"
	}
	return u
}

var userPattern = regexp.MustCompile(`\(\("([^"]*)",pid=(\d+)`)

// portUsers asks ss(8).
func (y *serviceSystem) portUsers(ctx context.Context, p control.ServicePort) []string {
	flag := map[string]string{control.TCP: "-Hlntp", control.UDP: "-Hlnup"}[p.Protocol]
	out, err := y.run(ctx, commandLimit, "ss", flag, fmt.Sprintf("sport = :%d", p.Port))
	if err != nil {
		return nil
	}
	var users []string
	for line := range strings.Lines(out) {
		m := userPattern.FindStringSubmatch(line)
		if m == nil || m[1] == "toe-agent" {
			continue
		}
		if who := fmt.Sprintf("%s (process %s)", m[1], m[2]); !slices.Contains(users, who) {
			users = append(users, who)
		}
	}
	return users
}

// listensAt is listensOn for both protocols.
func listensAt(p control.ServicePort) bool {
	if p.Protocol == control.TCP {
		return listensOn(p.Port)
	}
	end := fmt.Sprintf(":%04X", p.Port)
	for _, file := range []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], end) {
				return true
			}
		}
	}
	return false
}

// packages returns the versions of a service's packages in words, and those that are missing.
func (y *serviceSystem) packages(ctx context.Context, s control.Service) (words string, missing []string, err error) {
	if len(s.Packages) == 0 {
		return "no packages", nil, nil
	}
	// Its exit status is 1 where it does not know one, and it lists the others.
	out, err := y.run(ctx, commandLimit, append([]string{"dpkg-query", "-W", "-f", `${Package} ${Version} ${db:Status-Status}\n`}, s.Packages...)...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", nil, fmt.Errorf("dpkg-query: %w", err)
	}
	versions := map[string]string{}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "installed" {
			versions[f[0]] = f[1]
		}
	}
	here, _ := os.ReadFile(y.installed)
	own := strings.Fields(string(here))
	var list []string
	for _, p := range s.Packages {
		from := "of the image"
		if slices.Contains(own, p) {
			from = "installed on the card"
		}
		if versions[p] == "" {
			missing = append(missing, p)
		} else {
			list = append(list, fmt.Sprintf("%s %s %s", p, versions[p], from))
		}
	}
	return strings.Join(list, ", "), missing, nil
}

// install installs the packages of a service that are missing, with apt.
func (y *serviceSystem) install(ctx context.Context, s control.Service) (string, error) {
	words, missing, err := y.packages(ctx, s)
	if err != nil || len(missing) == 0 {
		return words, err
	}
	if err := y.apt(ctx, missing); err != nil {
		return "", fmt.Errorf("package %s is missing, and cannot be installed: %w; "+
			"`toe firmware build -f card.yaml` puts it into the image", strings.Join(missing, ", "), err)
	}
	// The agent starts it. A unit that does not start with the card is an error, and none of ours.
	_, _ = y.run(ctx, commandLimit, "systemctl", "disable", s.Unit)
	words, missing, err = y.packages(ctx, s)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("package %s is missing after apt has installed it", strings.Join(missing, ", "))
	}
	return words, err
}

func (y *serviceSystem) apt(ctx context.Context, missing []string) error {
	if _, err := os.Stat(y.policy); err != nil {
		if err := os.WriteFile(y.policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
			return err
		}
		defer func() { _ = os.Remove(y.policy) }()
	}
	// The agent has a priority that apt must not have.
	nice := []string{"nice", "-n", "15", "apt-get", "-q", "-o", "Acquire::http::Timeout=15", "-o", "Acquire::Retries=1"}
	if out, err := y.run(ctx, aptLimit, append(slices.Clone(nice), "update", "--error-on=any")...); err != nil {
		return fmt.Errorf("apt-get update: %w%s", err, programSaid(control.Service{}, out))
	}
	words := append(slices.Clone(nice), "install", "-y", "--no-install-recommends")
	if out, err := y.run(ctx, aptLimit, append(words, missing...)...); err != nil {
		return fmt.Errorf("apt-get install: %w%s", err, programSaid(control.Service{}, out))
	}
	has, _ := os.ReadFile(y.installed)
	if err := os.MkdirAll(filepath.Dir(y.installed), 0o755); err != nil {
		return err
	}
	return writeSynced(y.installed, string(has)+strings.Join(missing, "\n")+"\n")
}
