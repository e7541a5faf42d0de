package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/toe-project/toe/control"
)

func newKey(t *testing.T) (ssh.Signer, string) {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return signer, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
}

// startSSH serves ssh on a loopback address and returns the address and a key
// that may log in.
func startSSH(t *testing.T) (*sshServer, string, ssh.Signer) {
	t.Helper()
	keys, err := control.GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	s, err := newSSHServer(keys.SSHHostKey, newProcs(), NewLog(t.Output()))
	if err != nil {
		t.Fatal(err)
	}
	signer, line := newKey(t)
	if err := s.authorize([]string{line}); err != nil {
		t.Fatal(err)
	}
	if os.Getenv(inNamespace) != "" {
		loopbackUp(t)
	}
	if err := s.listen(t.Context(), netip.MustParseAddrPort("127.0.0.1:0")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s, s.lns[0].Addr().String(), signer
}

func login(t *testing.T, addr string, signer ssh.Signer) (*ssh.Client, error) {
	t.Helper()
	c, err := ssh.Dial("tcp", addr, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 5 * time.Second,
	})
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func openSession(t *testing.T) *ssh.Session {
	t.Helper()
	_, addr, signer := startSSH(t)
	c, err := login(t, addr, signer)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSSHRefusesOthers(t *testing.T) {
	server, addr, signer := startSSH(t)
	other, line := newKey(t)
	if _, err := login(t, addr, other); err == nil {
		t.Error("an unknown key logged in")
	}
	_, err := ssh.Dial("tcp", addr, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.Password("")}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 5 * time.Second,
	})
	if err == nil {
		t.Error("a password logged in")
	}
	if err := server.authorize([]string{line}); err != nil {
		t.Fatal(err)
	}
	if _, err := login(t, addr, other); err != nil {
		t.Errorf("a key that was added: %v", err)
	}
	if _, err := login(t, addr, signer); err == nil {
		t.Error("a key that was removed logged in")
	}
}

func TestSSHExec(t *testing.T) {
	s := openSession(t)
	var stdout, stderr bytes.Buffer
	s.Stdout, s.Stderr, s.Stdin = &stdout, &stderr, strings.NewReader("in")
	if err := s.Setenv("LC_TOE", "hello"); err != nil {
		t.Error(err)
	}
	err := s.Run("cat; echo $LC_TOE; echo bad >&2; exit 7")
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("end %v, want exit status 7", err)
	}
	if stdout.String() != "inhello\n" || stderr.String() != "bad\n" {
		t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
}

// TestSSHOpenInput: a command that ends while its client keeps the input
// open ends the session.
func TestSSHOpenInput(t *testing.T) {
	s := openSession(t)
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	done := make(chan error, 1)
	go func() { done <- s.Run("true") }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the session goes on after the command")
	}
}

func TestSSHMuchOutput(t *testing.T) {
	s := openSession(t)
	out, err := s.Output("head -c 5000000 /dev/zero")
	if err != nil || len(out) != 5000000 {
		t.Errorf("%d bytes, %v; want 5000000", len(out), err)
	}
}

func TestSSHSignal(t *testing.T) {
	s := openSession(t)
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("echo ready; exec sleep 60"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	if err := s.Signal(ssh.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.Signal() != "TERM" {
		t.Errorf("end %v, want signal TERM", err)
	}
}

// lockedBuffer collects what a terminal shows.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) has(s string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !strings.Contains(l.b.String(), s) {
		return fmt.Errorf("%q is not in %q", s, l.b.String())
	}
	return nil
}

func TestSSHTerminal(t *testing.T) {
	s := openSession(t)
	if err := s.RequestPty("vt100", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	var out lockedBuffer
	s.Stdout = &out
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	say := func(line, want string) {
		t.Helper()
		if _, err := io.WriteString(in, line+"\n"); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, line, func() error { return out.has(want) })
	}
	say("echo size $(stty size) $TERM", "size 24 80 vt100")
	if err := s.WindowChange(50, 132); err != nil {
		t.Fatal(err)
	}
	// Requests and input may overtake each other.
	say(`until [ "$(stty size)" = "50 132" ]; do sleep 0.05; done; echo wide $((1+1))`, "wide 2")
	say("sleep 60 & echo job $((40+2))", "job 42")
	// Ctrl-C works: the shell has a controlling terminal.
	_, _ = io.WriteString(in, "sleep 60\n")
	time.Sleep(200 * time.Millisecond)
	_, _ = io.WriteString(in, "\x03")
	say("echo status $?", "status 130")
	_, _ = io.WriteString(in, "exit 3\n")
	done := make(chan error, 1)
	go func() { done <- s.Wait() }()
	select {
	case err := <-done:
		var exit *ssh.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 3 {
			t.Errorf("end %v, want exit status 3", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the session goes on after its shell, because of a job in the background")
	}
}

// TestSSHDisconnect: what ran for a client that is gone is ended.
func TestSSHDisconnect(t *testing.T) {
	_, addr, signer := startSSH(t)
	c, err := login(t, addr, signer)
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	mark := t.TempDir() + "/mark"
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("trap '' PIPE; trap 'echo gone > " + mark + "; exit' HUP; echo ready; sleep 60 & wait"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	eventually(t, 5*time.Second, "hang up", func() error { _, err := os.Stat(mark); return err })
}

func TestSSHOnlySessions(t *testing.T) {
	_, addr, signer := startSSH(t)
	c, err := login(t, addr, signer)
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := c.Dial("tcp", addr); err == nil {
		_ = conn.Close()
		t.Error("forwarded a connection")
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RequestSubsystem("netconf"); err == nil {
		t.Error("served another subsystem than sftp")
	}
	for range sshSessions - 1 {
		if _, err := c.NewSession(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.NewSession(); err == nil {
		t.Errorf("more than %d sessions", sshSessions)
	}
}

// TestSSHClose: closing the server ends every connection.
func TestSSHClose(t *testing.T) {
	server, addr, signer := startSSH(t)
	c, err := login(t, addr, signer)
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	server.close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() { _ = c.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		t.Error("still connected")
	}
}
