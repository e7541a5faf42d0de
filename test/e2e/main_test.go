// Package e2e tests what a user does with a card, with the real program, real firmware and real
// machines, each in network namespaces of its own. It needs root, bin/toe (make build) and the
// firmware of both machines in the cache (toe firmware build); test/run brings all of it.
package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Set up by TestMain.
var (
	toe   string // the program under test
	self  string // a copy of this program that all users may run
	cache string // firmware
)

func TestMain(m *testing.M) {
	if os.Getpid() == 1 && os.Args[0] == "/init" { // on a card, in place of the agent
		fmt.Println(lastWords)
		os.Exit(3)
	}
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role, os.Args[1:]))
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run() // every test skips, with the reason: see newHost
	}
	undo, err := setUp()
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/e2e:", err)
		return 1
	}
	defer undo()
	before := inventory()
	status := m.Run()
	if left := leftSince(before); len(left) > 0 {
		fmt.Fprintln(os.Stderr, "FAIL: left behind by the tests:")
		for _, l := range left {
			fmt.Fprintln(os.Stderr, "  "+l)
		}
		return 1
	}
	return status
}

func setUp() (undo func(), err error) {
	if toe, err = filepath.Abs("../../bin/toe"); err != nil {
		return nil, err
	}
	if _, err := os.Stat(toe); err != nil {
		return nil, fmt.Errorf("%w; `make build` makes it", err)
	}
	if cache = os.Getenv("TOE_CACHE_DIR"); cache == "" {
		cache = "/var/cache/toe"
	}
	dir, err := os.MkdirTemp("/tmp", "te-self-")
	if err != nil {
		return nil, err
	}
	self = filepath.Join(dir, "self")
	err = errors.Join(os.Chmod(dir, 0o755), copyProgram(self))
	if err == nil {
		cache, err = cacheOf(cache, filepath.Join(dir, "cache"))
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return func() { os.RemoveAll(dir) }, nil
}

// copyProgram copies this program, because go test keeps it in a folder that only its own user may
// read.
func copyProgram(to string) error {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
