package fds

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxBeside is how many descriptors a Stream takes in.
const maxBeside = 4

// Stream is a stream socket that keeps the descriptors which come beside the
// bytes that are read. They are marked close-on-exec.
type Stream struct {
	*net.UnixConn
	mu    sync.Mutex
	files []*os.File // guarded by mu
}

// Read reads bytes, and takes in what came beside them.
func (s *Stream) Read(b []byte) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4*maxBeside))
	n, oobn, _, _, err := s.ReadMsgUnix(b, oob)
	if errors.Is(err, io.EOF) { // not bare
		err = io.EOF
	}
	if err != nil {
		return max(n, 0), err
	}
	if n == 0 && len(b) > 0 {
		err = io.EOF
	}
	got, bad := Rights(oob[:oobn])
	if bad != nil {
		err = bad
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, fd := range got {
		s.files = append(s.files, os.NewFile(uintptr(fd), fmt.Sprintf("passed:%d", fd)))
	}
	return n, err
}

// Take gives out the descriptors that have come. They are the caller's.
func (s *Stream) Take() []*os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	files := s.files
	s.files = nil
	return files
}

// Close closes the socket and what was not taken.
func (s *Stream) Close() error {
	CloseAll(s.Take())
	return s.UnixConn.Close()
}

// WriteBeside writes b, with files beside its first byte, which stay the
// caller's.
func WriteBeside(c *net.UnixConn, b []byte, files ...*os.File) error {
	raw := make([]int, len(files))
	for i, f := range files {
		raw[i] = int(f.Fd())
	}
	n, _, err := c.WriteMsgUnix(b, unix.UnixRights(raw...), nil)
	if err == nil && n < len(b) {
		_, err = c.Write(b[n:])
	}
	return err
}
