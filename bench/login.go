package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/toe-project/toe/card/store"
)

// login is a session on a card. The traffic program on the card runs as long as the session.
type login struct {
	client  *ssh.Client
	session *ssh.Session
	in      io.Closer
}

// logIn opens a session over conn, which it owns.
func logIn(conn net.Conn, c *store.Card) (*ssh.Client, error) {
	key, err := c.LoginKey()
	if err != nil {
		conn.Close()
		return nil, err
	}
	host, err := c.HostKey()
	if err != nil {
		conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	sc, channels, requests, err := ssh.NewClientConn(conn, c.Name, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyAlgorithms: []string{host.Type()},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if !bytes.Equal(key.Marshal(), host.Marshal()) {
				return errors.New("the host key is another card's")
			}
			return nil
		},
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("ssh: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	return ssh.NewClient(sc, channels, requests), nil
}

// serve starts the traffic program on the card.
func serve(ctx context.Context, conn net.Conn, c *store.Card, address string) (*login, error) {
	client, err := logIn(conn, c)
	if err != nil {
		return nil, err
	}
	l := &login{client: client}
	defer context.AfterFunc(ctx, func() { client.Close() })()
	watchdog := time.AfterFunc(20*time.Second, func() { client.Close() })
	defer watchdog.Stop()
	if err := l.start(address); err != nil {
		client.Close()
		return nil, fmt.Errorf("the traffic program on the card did not start: %w", err)
	}
	return l, nil
}

func (l *login) start(address string) (err error) {
	if l.session, err = l.client.NewSession(); err != nil {
		return err
	}
	if l.in, err = l.session.StdinPipe(); err != nil {
		return err
	}
	out, err := l.session.StdoutPipe()
	if err != nil {
		return err
	}
	if err := l.session.Start("/init bench-serve " + address); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("it said %q: %w", line, err)
	}
	return nil
}

// close ends the program and the session.
func (l *login) close() {
	if l == nil {
		return
	}
	l.in.Close()
	l.client.Close()
}
