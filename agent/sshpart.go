package agent

import (
	"fmt"
	"slices"

	"github.com/toe-project/toe/control"
)

// sshPart is the card's ssh, and the keys that may log in.
type sshPart struct {
	idle
	server *sshServer
}

func newSSHPart(e *env) (*sshPart, error) {
	s, err := newSSHServer(e.opts.Keys.SSHHostKey, e.procs, e.log)
	if err != nil {
		return nil, err
	}
	return &sshPart{server: s}, s.authorize(e.conf.AuthorizedKeys)
}

func (s *sshPart) listeners() []listener { return []listener{{"ssh", sshPort, s.server.listen}} }

func (s *sshPart) plan(now, next *control.Config) ([]step, error) {
	if slices.Equal(now.AuthorizedKeys, next.AuthorizedKeys) {
		return nil, nil
	}
	return []step{{
		fmt.Sprintf("%d authorized keys", len(next.AuthorizedKeys)),
		func() error { return s.server.authorize(next.AuthorizedKeys) },
		func() error { return s.server.authorize(now.AuthorizedKeys) },
	}}, nil
}

func (s *sshPart) close() { s.server.close() }
