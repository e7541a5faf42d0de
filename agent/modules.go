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

// The lists of modules: earlyList is what the link needs, lateList what can wait
// until the control API listens.
const (
	modulesDir = "/lib/modules"
	earlyList  = "load.list"
	lateList   = "late.list"
	diskList   = "disk.list" // what a root on a disk needs
	// endpointList is what only endpoint mode needs.
	endpointList = "endpoint.list"
)

// loadModules loads the modules of a list in dir, in its order: paths below
// DIR/RELEASE, one a line, dependencies first. The firmware's build makes the
// lists, so that nothing is searched for here. A module that does not load is
// logged; what needs the module reports its own error.
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
	defer func() {
		log.Printf("modules of %s loaded in %v", name, time.Since(began).Round(time.Millisecond))
	}()
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
