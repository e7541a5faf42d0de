package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// features are what toe needs to know of the QEMU at hand.
type features struct {
	path         string
	major, minor int
}

// atLeast compares the version.
func (f features) atLeast(major, minor int) bool {
	return f.major > major || f.major == major && f.minor >= minor
}

// reconnect is the chardev option to dial again. The one in milliseconds came
// with QEMU 9.2, which warns about the older one in seconds.
func (f features) reconnect() string {
	if f.atLeast(9, 2) {
		return "reconnect-ms=100"
	}
	return "reconnect=1"
}

// seen remembers what was found out about a binary while it is the same file.
var seen struct {
	sync.Mutex
	by map[string]features // path, modification time and size; guarded by Mutex
}

var versionLine = regexp.MustCompile(`version (\d+)\.(\d+)`)

func look(ctx context.Context, path string) (features, error) {
	st, err := os.Stat(path)
	if err != nil {
		return features{}, err
	}
	key := fmt.Sprintf("%s %d %d", path, st.ModTime().UnixNano(), st.Size())
	seen.Lock()
	defer seen.Unlock()
	if f, ok := seen.by[key]; ok {
		return f, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return features{}, fmt.Errorf("%s --version: %w: %.200s", path, err, out)
	}
	v := versionLine.FindSubmatch(out)
	if v == nil {
		return features{}, fmt.Errorf("%s --version: no version in %.200q", path, out)
	}
	f := features{path: path}
	f.major, _ = strconv.Atoi(string(v[1])) // digits, by the expression
	f.minor, _ = strconv.Atoi(string(v[2]))
	if seen.by == nil {
		seen.by = map[string]features{}
	}
	seen.by[key] = f
	return f, nil
}
