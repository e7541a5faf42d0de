package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/toe-project/toe/control"
)

const (
	sshPort      = 22
	sshAtOnce    = 32 // connections
	sshSessions  = 16 // of one connection, at once
	sshHandshake = 20 * time.Second
)

// sshServer is the card's ssh: keys only, one account, commands, shells and sftp. It has no
// forwarding: the card routes.
type sshServer struct {
	conf  *ssh.ServerConfig
	procs *procs
	log   *Log
	keys  atomic.Pointer[map[string]bool] // that may log in, in wire form

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]bool
	lns    []net.Listener
	closed bool
	wg     sync.WaitGroup
}

var errUnknownKey = errors.New("this key may not log in")

func newSSHServer(hostKey []byte, procs *procs, log *Log) (*sshServer, error) {
	signer, err := ssh.ParsePrivateKey(hostKey)
	if err != nil {
		return nil, fmt.Errorf("ssh: host key: %w", err)
	}
	s := &sshServer{procs: procs, log: log, conns: map[net.Conn]bool{}}
	s.keys.Store(&map[string]bool{})
	s.conf = &ssh.ServerConfig{
		MaxAuthTries:  6,
		ServerVersion: "SSH-2.0-toe",
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if (*s.keys.Load())[string(key.Marshal())] {
				return nil, nil
			}
			return nil, errUnknownKey
		},
	}
	s.conf.AddHostKey(signer)
	return s, nil
}

// authorize replaces the keys that may log in. It ends no session.
func (s *sshServer) authorize(lines []string) error {
	keys := map[string]bool{}
	for _, line := range lines {
		key, err := control.ParseAuthorizedKey(line)
		if err != nil {
			return fmt.Errorf("ssh: %w", err)
		}
		keys[string(key.Marshal())] = true
	}
	s.keys.Store(&keys)
	return nil
}

// listen serves one address until close.
func (s *sshServer) listen(ctx context.Context, at netip.AddrPort) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		return fmt.Errorf("ssh: %w", err)
	}
	ln = limitListener(ln, sshAtOnce)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = ln.Close()
		return net.ErrClosed
	}
	s.lns = append(s.lns, ln)
	s.wg.Go(func() { s.accept(ln) })
	return nil
}

func (s *sshServer) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.log.Printf("ssh: %v", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors, likely
			continue
		}
		if !s.track(conn) {
			_ = conn.Close()
			return
		}
		go func() {
			defer s.untrack(conn)
			s.serve(conn)
		}()
	}
}

func (s *sshServer) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[conn] = true
	s.wg.Add(1)
	return true
}

func (s *sshServer) untrack(conn net.Conn) {
	_ = conn.Close()
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
	s.wg.Done()
}

// close ends all connections and waits for their sessions.
func (s *sshServer) close() {
	s.mu.Lock()
	s.closed = true
	for _, ln := range s.lns {
		_ = ln.Close()
	}
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// serve is one connection.
func (s *sshServer) serve(raw net.Conn) {
	_ = raw.SetDeadline(time.Now().Add(sshHandshake))
	conn, channels, requests, err := ssh.NewServerConn(raw, s.conf)
	if err != nil {
		s.log.Printf("ssh: %s: %v", raw.RemoteAddr(), err)
		return
	}
	_ = raw.SetDeadline(time.Time{})
	s.log.Printf("ssh: %s: %q logged in", conn.RemoteAddr(), conn.User())
	go ssh.DiscardRequests(requests)

	ctx, cancel := context.WithCancel(context.Background())
	var sessions sync.WaitGroup
	slots := make(chan struct{}, sshSessions)
	for ch := range channels {
		if ch.ChannelType() != "session" {
			_ = ch.Reject(ssh.UnknownChannelType, "only sessions are served here")
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			_ = ch.Reject(ssh.ResourceShortage, fmt.Sprintf("%d sessions are open already", sshSessions))
			continue
		}
		channel, reqs, err := ch.Accept()
		if err != nil {
			<-slots
			continue
		}
		sessions.Go(func() {
			defer func() { <-slots }()
			newSession(channel, s.procs).run(ctx, reqs)
		})
	}
	cancel() // the connection is gone
	sessions.Wait()
}
