package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loadModules loads what DIR/load.list names, in that order: paths below
// DIR/RELEASE, one a line, dependencies first. The list is made when the
// firmware is built, so that nothing has to be looked up here. A module that
// does not load is logged: what misses it will say so itself.
func loadModules(log *Log, dir string) {
	list, err := os.ReadFile(filepath.Join(dir, "load.list"))
	if errors.Is(err, fs.ErrNotExist) {
		return // everything is built in
	}
	if err != nil {
		log.Sayf("modules: %v", err)
		return
	}
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
