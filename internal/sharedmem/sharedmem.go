// Package sharedmem is memory that a process shares with its workers, such as counters. It outlives
// each worker, and reading it stops none.
package sharedmem

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Memory is a file of fixed size, mapped.
type Memory struct {
	File *os.File

	mu sync.Mutex // guards b against Close; never held across a wait
	b  []byte     // nil after Close
}

// New makes memory of size zero bytes. Name is for /proc.
func New(name string, size int) (*Memory, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memfd_create of %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := f.Truncate(int64(size)); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: F_ADD_SEALS: %w", name, err)
	}
	return Open(f, size)
}

// Open maps memory that another process made. It owns the file.
func Open(f *os.File, size int) (*Memory, error) {
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: mmap of %d bytes: %w", f.Name(), size, err)
	}
	return &Memory{File: f, b: b}, nil
}

// Bytes returns the memory, which must not be used after Close.
func (m *Memory) Bytes() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b
}

// Read calls f unless the memory is closed. The memory stays open during the call.
func (m *Memory) Read(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.b != nil {
		f()
	}
}

// Close unmaps the memory and closes the file.
func (m *Memory) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.b == nil {
		return
	}
	unix.Munmap(m.b)
	m.b = nil
	m.File.Close()
}
