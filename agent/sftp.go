package agent

import (
	"errors"
	"io"

	"github.com/pkg/sftp"
	"golang.org/x/sys/unix"
)

// SFTPVerb is the argument with which the agent's program serves sftp.
const SFTPVerb = "sftp-server"

// ServeSFTP serves SFTP version 3 with the files of this machine until the client has gone. It
// is a process of its own, a session's command like any other: a fault in it cannot end
// process 1.
func ServeSFTP(in io.Reader, out io.WriteCloser) error {
	unix.Umask(0o022)
	s, err := sftp.NewServer(struct {
		io.Reader
		io.WriteCloser
	}{in, out})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Serve(); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
