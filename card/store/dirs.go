package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Dirs are the folders that all cards of one user share.
type Dirs struct {
	State   string // one folder a card: what has to outlive a reboot of the host
	Runtime string // one folder a card: sockets, locks, logs; on tmpfs
	Cache   string // firmware
}

// DefaultDirs are the folders of the calling user. TOE_STATE_DIR,
// TOE_RUNTIME_DIR and TOE_CACHE_DIR override each.
func DefaultDirs() (Dirs, error) {
	d := Dirs{State: "/var/lib/toe", Runtime: "/run/toe", Cache: "/var/cache/toe"}
	if uid := os.Geteuid(); uid != 0 {
		home, err := os.UserHomeDir()
		if err != nil {
			return Dirs{}, fmt.Errorf("where to keep the card: %w; set HOME or TOE_STATE_DIR", err)
		}
		d.State = filepath.Join(xdg("XDG_STATE_HOME", filepath.Join(home, ".local/state")), "toe")
		d.Cache = filepath.Join(xdg("XDG_CACHE_HOME", filepath.Join(home, ".cache")), "toe")
		d.Runtime = "/tmp/toe-" + strconv.Itoa(uid)
		if run := xdg("XDG_RUNTIME_DIR", ""); run != "" {
			d.Runtime = filepath.Join(run, "toe")
		}
	}
	for _, o := range []struct {
		variable string
		dir      *string
	}{{"TOE_STATE_DIR", &d.State}, {"TOE_RUNTIME_DIR", &d.Runtime}, {"TOE_CACHE_DIR", &d.Cache}} {
		v := os.Getenv(o.variable)
		if v == "" {
			continue
		}
		if !filepath.IsAbs(v) {
			return Dirs{}, fmt.Errorf("%s %q: must be an absolute path", o.variable, v)
		}
		*o.dir = v
	}
	return d, nil
}

// xdg is an absolute path from the environment (the XDG base directory
// specification has relative ones ignored).
func xdg(variable, fallback string) string {
	if v := os.Getenv(variable); filepath.IsAbs(v) {
		return v
	}
	return fallback
}

// Card gives the folders of one card; none need exist.
func (d Dirs) Card(name string) Paths {
	return Paths{State: filepath.Join(d.State, name), Runtime: filepath.Join(d.Runtime, name), Cache: d.Cache}
}

// Paths are the folders of one card.
type Paths struct{ State, Runtime, Cache string }

// Files of the state folder.
func (p Paths) Spec() string    { return filepath.Join(p.State, "card.yaml") }
func (p Paths) Links() string   { return filepath.Join(p.State, "links.json") }
func (p Paths) Keys() string    { return filepath.Join(p.State, "keys") }
func (p Paths) Last() string    { return filepath.Join(p.State, "last.json") }
func (p Paths) Journal() string { return filepath.Join(p.State, "journal.json") }
func (p Paths) Flash() string   { return filepath.Join(p.State, "flash.img") }

// FirmwareHistory is the file that firmware history is appended to.
func (p Paths) FirmwareHistory() string { return filepath.Join(p.State, "firmware-history.jsonl") }

// Files of the runtime folder.
func (p Paths) Lock() string        { return filepath.Join(p.Runtime, "supervisor.pid") }
func (p Paths) Socket() string      { return filepath.Join(p.Runtime, "supervisor.sock") }
func (p Paths) Log() string         { return filepath.Join(p.Runtime, "supervisor.log") }
func (p Paths) ConsoleSock() string { return filepath.Join(p.Runtime, "console.sock") }
func (p Paths) ConsoleLog() string  { return filepath.Join(p.Runtime, "console.log") }
func (p Paths) Initrd() string      { return filepath.Join(p.Runtime, "initrd") }
func (p Paths) Machine() string     { return filepath.Join(p.Runtime, "machine") }

// Vhost is the socket of the network device called name.
func (p Paths) Vhost(name string) string { return filepath.Join(p.Runtime, name+".vhost") }

// maxSocketPath is the room in sockaddr_un.sun_path, less the final zero.
const maxSocketPath = 107

// CheckSockets refuses a runtime folder whose path is too long for the sockets
// of a card that runs.
func (p Paths) CheckSockets() error {
	longest := len(p.Vhost("port-fifteen-chars0"))
	if longest <= maxSocketPath {
		return nil
	}
	const text = "runtime folder %s: its path has %d bytes, want at most %d: a socket's path in it has " +
		"no room for more; set TOE_RUNTIME_DIR to a shorter one"
	return fmt.Errorf(text, p.Runtime, len(p.Runtime), len(p.Runtime)-longest+maxSocketPath)
}

// MakeRuntime makes the runtime folder, and refuses one that another user could
// have put there.
func (p Paths) MakeRuntime() error {
	if err := privateDir(filepath.Dir(p.Runtime)); err != nil {
		return err
	}
	return privateDir(p.Runtime)
}

// privateDir makes dir, mode 0700, with its parents, and checks that it is a
// folder of the caller's own.
func privateDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return ownDir(dir)
}

// Trusted returns an error if another user may have made the runtime folder.
// Below /tmp every user can make it first, and answer from a socket in it.
func (p Paths) Trusted() error {
	for _, dir := range []string{filepath.Dir(p.Runtime), p.Runtime} {
		if err := ownDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// ownDir checks that dir is a folder of the caller's own.
func ownDir(dir string) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !fi.IsDir() || !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s: belongs to another user, or is no folder; want a folder of user %d", dir, os.Geteuid())
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s: others may write to it; fix: `chmod 0700 %s`", dir, dir)
	}
	return nil
}
