package main

import (
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// runLogMax is the size in bytes at which a supervisor's log is renamed to NAME.1 and a new one
// begins. At most twice that is kept.
const runLogMax = 4 << 20

// runLog is the standard error of a supervisor that `toe up` has pointed at a
// file: what is written is counted, and the descriptor pointed at a new file
// when there is enough of it. Children keep the file they were started with.
type runLog struct {
	path string
	fds  []int // that lead to the file
	max  int64

	mu   sync.Mutex
	size int64 // guarded by mu
}

// newRunLog gives out itself where it is not the file at path, as under a
// service manager, which looks after its own logs.
func newRunLog(out *os.File, path string) io.Writer {
	here, err := out.Stat()
	if err != nil {
		return out
	}
	there, err := os.Stat(path)
	if err != nil || !os.SameFile(here, there) {
		return out
	}
	return &runLog{path: path, fds: []int{1, 2}, max: runLogMax, size: here.Size()}
}

// Write appends to the log.
func (l *runLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, err := unix.Write(l.fds[len(l.fds)-1], p)
	if l.size += int64(max(n, 0)); l.size >= l.max {
		l.rotate()
	}
	return max(n, 0), err
}

// rotate goes on with the old file where a new one cannot be had.
func (l *runLog) rotate() {
	l.size = 0 // also then, so that it is tried again later and not at each line
	if os.Rename(l.path, l.path+".1") != nil {
		return
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	for _, fd := range l.fds {
		_ = unix.Dup3(int(f.Fd()), fd, 0)
	}
}
