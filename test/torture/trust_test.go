package torture

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/toe-project/toe/card/client"
	"github.com/toe-project/toe/card/rom"
	"github.com/toe-project/toe/card/status"
	"github.com/toe-project/toe/firmware"
)

// zeroTrust does as a host what a host does, and as an administrator what only that one can, on a card
// with zero_trust.
func (w *world) zeroTrust(t *testing.T, one *firmware.Image) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	admin, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	c := w.newCard(t, "trust", one, "zero_trust: true", "ssh: {authorized_keys: ["+line+"]}")
	c.power(t, "")
	if st := c.settled(t); !st.Firmware.ZeroTrust {
		t.Fatalf("the status does not name zero_trust: %+v", st.Firmware)
	}
	super := client.New(c.Card)
	want := c.Spec
	want.DNS.Search = []string{"elsewhere.example"}
	for what, do := range map[string]func() error{
		"apply":         func() error { _, err := super.Apply(t.Context(), want); return err },
		"rollback":      func() error { _, err := super.Rollback(t.Context(), "host", ""); return err },
		"factory reset": func() error { return super.FactoryReset(t.Context(), "host") },
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), "zero_trust") {
			t.Errorf("%s: %v", what, err)
		}
	}
	c.hostStaysOut(t)
	w.offered(t, c, admin)
	c.down(t)
	// The host drops the key: the card keeps it.
	without := c.Spec
	without.ZeroTrust = false
	if err := c.SetSpec(without); err != nil {
		t.Fatal(err)
	}
	c.power(t, "")
	st := c.await(t, "a card that says whose configuration it has", func(st status.Status) error {
		if !st.Firmware.ZeroTrust || !strings.Contains(strings.Join(st.Reasons, "; "), "zero_trust") {
			return fmt.Errorf("%s, zero_trust %v, %q", st.State, st.Firmware.ZeroTrust, st.Reasons)
		}
		return nil
	})
	t.Logf("the host has dropped the key: %s", strings.Join(st.Reasons, "; "))
	c.hostStaysOut(t)
	if _, err := c.as(t, admin, "toe-agent zero-trust off"); err != nil {
		t.Fatal(err)
	}
	c.down(t)
	c.power(t, "")
	if st := c.settled(t); st.Firmware.ZeroTrust {
		t.Error("the administrator has ended it, and the card has it still")
	}
	c.down(t)
	r, err := rom.Open(c.Paths)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.MayChange(); err != nil {
		t.Error(err)
	}
}

// offered has the host offer a bundle and an administrator accept it.
func (w *world) offered(t *testing.T, c *card, admin ssh.Signer) {
	t.Helper()
	before := sumFlash(t, c, false)
	ctx, cancel := context.WithTimeout(t.Context(), 5*limit)
	defer cancel()
	ended := make(chan error, 1)
	go func() { _, err := c.update(ctx, w.bundles[1]); ended <- err }()
	var said string
	for end := time.Now().Add(limit); !strings.Contains(said, "2026.1128.2"); time.Sleep(100 * time.Millisecond) {
		said, _ = c.as(t, admin, "toe-agent offer")
		if time.Now().After(end) {
			t.Fatalf("no offer on the card: %q", said)
		}
	}
	if sumFlash(t, c, false) != before {
		t.Error("an offer has changed the flash")
	}
	if out, err := c.as(t, admin, "toe-agent offer accept $(toe-agent offer | sed -n 's/.*offer accept \\([A-Z0-9]*\\).*/\\1/p')"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := <-ended; err != nil {
		t.Fatalf("an offer that was accepted: %v", err)
	}
	if st := c.settled(t); st.Firmware.Version != w.releases[1] || !st.Firmware.ZeroTrust {
		t.Errorf("after the update: %+v", st.Firmware)
	}
}

// hostStaysOut checks that the key of `toe ssh` does not log in, and that the host does not know the
// card's key.
func (c *card) hostStaysOut(t *testing.T) {
	t.Helper()
	login, err := c.LoginKey()
	if err != nil {
		t.Fatal(err)
	}
	known, err := c.HostKey()
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.login(t, login, func(key ssh.PublicKey) error {
		if bytes.Equal(key.Marshal(), known.Marshal()) {
			t.Error("the host knows the card's ssh host key")
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "unable to authenticate") {
		t.Errorf("the host's key logs in: %v", err)
	}
}

func (c *card) login(t *testing.T, who ssh.Signer, host func(ssh.PublicKey) error) (*ssh.Client, error) {
	t.Helper()
	conn, err := client.New(c.Card).Dial(t.Context(), 22)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(limit))
	sc, channels, requests, err := ssh.NewClientConn(conn, c.Name, &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(who)},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error { return host(key) },
	})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return ssh.NewClient(sc, channels, requests), nil
}

// as runs a command on the card.
func (c *card) as(t *testing.T, who ssh.Signer, command string) (string, error) {
	t.Helper()
	cl, err := c.login(t, who, func(ssh.PublicKey) error { return nil })
	if err != nil {
		return "", err
	}
	defer cl.Close()
	s, err := cl.NewSession()
	if err != nil {
		return "", err
	}
	out, err := s.CombinedOutput(command)
	return string(out), err
}
