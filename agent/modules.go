package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The lists of modules: what the link needs, and what can wait until the
// control API listens.
const (
	modulesDir = "/lib/modules"
	earlyList  = "load.list"
	lateList   = "late.list"
	// endpointList is what endpoint mode needs besides: a router is spared it.
	endpointList = "endpoint.list"
)

// loadModules loads what a list in dir names, in that order: paths below
// DIR/RELEASE, one a line, dependencies first. The lists are made when the
// firmware is built, so that nothing has to be looked up here. A module that
// does not load is logged: what misses it will say so itself.
func loadModules(log *Log, dir, name string) {
	list, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return // everything is built in
	}
	if err != nil {
		log.Sayf("modules: %v", err)
		return
	}
	began := time.Now()
	defer func() { log.Printf("modules of %s loaded in %v", name, time.Since(began).Round(time.Millisecond)) }()
	for name := range strings.Lines(string(list)) {
		name = strings.TrimSpace(name)
		if name == "" || strings.HasPrefix(name, "#") {
			continue
		}
		if err := loadModule(filepath.Join(dir, kernel(), name)); err != nil {
			log.Sayf("module %v", err)
		}
	}
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	flags := 0
	if !strings.HasSuffix(path, ".ko") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	err = unix.FinitModule(int(f.Fd()), "", flags)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%s: finit_module: %w", path, err)
	}
	return nil
}
