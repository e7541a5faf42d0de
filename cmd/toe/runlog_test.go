package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSupervisorLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "supervisor.log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 100)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	l := &runLog{path: path, fds: []int{fd}, max: 1000}
	const line = "0123456789\n"
	for range 500 {
		if n, err := fmt.Fprint(l, line); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	for _, p := range []string{path, path + ".1"} {
		fi, err := os.Stat(p)
		if err != nil || fi.Size() > 1000+int64(len(line)) || p != path && fi.Size() < 1000 {
			t.Errorf("%s: %+v, %v; want at most 1000 bytes and a line", p, fi, err)
		}
	}
	if files, _ := filepath.Glob(path + "*"); len(files) != 2 {
		t.Errorf("left: %v, want one log and one old one", files)
	}
}

func TestOnlyItsOwnLogIsRotated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "supervisor.log")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, ok := newRunLog(out, path).(*runLog); !ok {
		t.Error("the log that toe up made is not looked after")
	}
	for _, other := range []string{path + ".gone", os.DevNull} {
		if w := newRunLog(out, other); w != out {
			t.Errorf("%s: %T; want what was there", other, w)
		}
	}
}
