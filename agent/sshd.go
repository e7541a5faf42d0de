package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/toe-project/toe/control"
)

// sshdGrace is how long OpenSSH may take after the agent's start. On QEMU's translator systemd needs
// a minute for all of its services.
const sshdGrace = 5 * time.Minute

// sshdDir has what sshd_config of the package toe-agent names.
const sshdDir = runDir + "/ssh"

// sshdPart gives the keys to the root's OpenSSH, which serves port 22 in place of sshPart. The files
// are in memory: keys of a card are on no disk but its host's.
type sshdPart struct {
	idle
	dir   string
	since time.Time
	// listens reports whether a program listens on port 22.
	listens func() bool
}

func newSSHDPart(e *env, dir string) (*sshdPart, error) {
	s := &sshdPart{dir: dir, since: time.Now(), listens: func() bool { return listensOn(sshPort) }}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := replace(filepath.Join(dir, "host_key"), e.opts.Keys.SSHHostKey); err != nil {
		return nil, err
	}
	return s, s.authorize(e.conf.AuthorizedKeys)
}

// authorize replaces the keys that may log in. sshd reads them at each login.
func (s *sshdPart) authorize(lines []string) error {
	text := strings.Join(append(slices.Clone(lines), ""), "\n")
	return replace(filepath.Join(s.dir, "authorized_keys"), []byte(text))
}

func replace(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (s *sshdPart) plan(now, next *control.Config) ([]step, error) {
	if slices.Equal(now.AuthorizedKeys, next.AuthorizedKeys) {
		return nil, nil
	}
	return []step{{
		fmt.Sprintf("%d authorized keys", len(next.AuthorizedKeys)),
		func() error { return s.authorize(next.AuthorizedKeys) },
		func() error { return s.authorize(now.AuthorizedKeys) },
	}}, nil
}

func (s *sshdPart) health() []reason {
	r := reason{component: "ssh", state: healthy}
	switch {
	case s.listens():
	case time.Since(s.since) < sshdGrace:
		r = r.with(starting, "sshd does not listen yet")
	default:
		r = r.with(degraded, "nothing listens on port 22; `systemctl status ssh` on the card's console says why")
	}
	return []reason{r}
}

// listensOn reports whether a TCP socket of this namespace listens on port. It asks the kernel
// (proc_pid_net(5)) and not the port: a connection is a line in sshd's log.
func listensOn(port uint16) bool {
	const listen = "0A" // TCP_LISTEN
	end := fmt.Sprintf(":%04X", port)
	for _, file := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) > 3 && strings.HasSuffix(f[1], end) && f[3] == listen {
				return true
			}
		}
	}
	return false
}

// rootPart reports why a card with a root on a disk runs without it.
type rootPart struct {
	idle
	err error
}

func (r *rootPart) health() []reason {
	return []reason{{"root", degraded, fmt.Sprintf("the card runs without its root: %v", r.err)}}
}
