package control

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/toe-project/toe/control/cardpb"
)

type fakeCard struct {
	cardpb.UnimplementedCardHandler
}

func (fakeCard) Status(context.Context, *cardpb.StatusRequest) (*cardpb.StatusResponse, error) {
	return &cardpb.StatusResponse{Name: "fake"}, nil
}

func serve(t *testing.T, k Keys) netip.AddrPort {
	t.Helper()
	conf, err := ServerTLS(k)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(cardpb.NewCardHandler(fakeCard{}))
	s := httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS, s.EnableHTTP2 = conf, true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).AddrPort()
}

func keys(t *testing.T) Keys {
	t.Helper()
	k, err := GenerateKeys()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func status(t *testing.T, addr netip.AddrPort, k Keys, dial DialFunc) error {
	t.Helper()
	c, err := Dial(addr, k, dial)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err = c.Status(ctx, &cardpb.StatusRequest{})
	return err
}

func TestMutualTLS(t *testing.T) {
	mine, other := keys(t), keys(t)
	addr := serve(t, mine)

	mixed := mine
	mixed.ClientCert, mixed.ClientKey = other.ClientCert, other.ClientKey
	asServer := mine
	asServer.ClientCert, asServer.ClientKey = mine.ServerCert, mine.ServerKey
	foreign := other
	foreign.ClientCert, foreign.ClientKey = mine.ClientCert, mine.ClientKey

	for name, tt := range map[string]struct {
		keys Keys
		ok   bool
	}{
		"own host":                       {mine, true},
		"another card's host":            {mixed, false},
		"the card's own key as a client": {asServer, false},
		"a card of another authority":    {foreign, false},
	} {
		if err := status(t, addr, tt.keys, nil); (err == nil) != tt.ok {
			t.Errorf("%s: %v, want success %v", name, err, tt.ok)
		}
	}
}

func TestNoCertificateNoOldTLS(t *testing.T) {
	k := keys(t)
	addr := serve(t, k)
	conf, err := ClientTLS(k)
	if err != nil {
		t.Fatal(err)
	}
	try := func(change func(*tls.Config)) error {
		c := conf.Clone()
		change(c)
		conn, err := tls.Dial("tcp", addr.String(), c)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: card.toe\r\nConnection: close\r\n\r\n")
		if err == nil {
			// In TLS 1.3 a server's refusal of the client arrives with the first read.
			_, err = io.ReadAll(conn)
		}
		return err
	}
	if err := try(func(*tls.Config) {}); err != nil {
		t.Errorf("plain try: %v", err)
	}
	if err := try(func(c *tls.Config) { c.Certificates = nil }); err == nil {
		t.Error("no certificate: accepted")
	}
	if err := try(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }); err == nil {
		t.Error("TLS 1.2: accepted")
	}
	if err := try(func(c *tls.Config) { c.ServerName = "other.toe" }); err == nil {
		t.Error("another name: accepted")
	}
}

func TestDialFuncIsUsed(t *testing.T) {
	k := keys(t)
	addr := serve(t, k)
	called := false
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		called = true
		var d net.Dialer
		return d.DialContext(ctx, network, addr.String())
	}
	// No machine has this address: only the dial function leads to the card.
	if err := status(t, netip.MustParseAddrPort("192.0.2.1:7464"), k, dial); err != nil || !called {
		t.Errorf("status: %v, dial function called: %v", err, called)
	}
}

// TestDialIsPatient: a first packet that is lost costs milliseconds, not the
// second after which TCP sends it again.
func TestDialIsPatient(t *testing.T) {
	k := keys(t)
	addr := serve(t, k)
	tries := 0
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		if tries++; tries < 3 {
			<-ctx.Done() // the card is not there yet
			return nil, ctx.Err()
		}
		return new(net.Dialer).DialContext(ctx, network, addr.String())
	}
	begin := time.Now()
	if err := status(t, addr, k, dial); err != nil || tries != 3 {
		t.Errorf("status: %v after %d tries, want success after 3", err, tries)
	}
	if d := time.Since(begin); d > 900*time.Millisecond {
		t.Errorf("took %v", d)
	}
}

// TestDialOutlivesATimeout: the net package reports a limit that has passed, and the context of the
// attempt does not report it yet.
func TestDialOutlivesATimeout(t *testing.T) {
	tries := 0
	dial := patient(func(context.Context, string, string) (net.Conn, error) {
		if tries++; tries == 1 {
			return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
		}
		return nil, nil
	})
	if _, err := dial(t.Context(), "tcp", "192.0.2.1:1"); err != nil || tries != 2 {
		t.Errorf("%d attempts, %v; want 2 and no error", tries, err)
	}
}

// TestDialIsLimited: a card that is gone is an error after dialLimit.
func TestDialIsLimited(t *testing.T) {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	begin := time.Now()
	if err := status(t, netip.MustParseAddrPort("192.0.2.1:7464"), keys(t), dial); err == nil {
		t.Error("success without a card")
	}
	if d := time.Since(begin); d > 2*dialLimit {
		t.Errorf("took %v, want at most %v", d, dialLimit)
	}
}

func TestDialRefuses(t *testing.T) {
	k := keys(t)
	if _, err := Dial(netip.AddrPort{}, k, nil); err == nil {
		t.Error("no address: accepted")
	}
	if _, err := Dial(netip.MustParseAddrPort("192.0.2.1:7464"), Keys{}, nil); err == nil {
		t.Error("no keys: accepted")
	}
	k.CA = []byte("x")
	if _, err := Dial(netip.MustParseAddrPort("192.0.2.1:7464"), k, nil); err == nil || !strings.Contains(err.Error(), "ca.pem") {
		t.Errorf("broken authority: %v", err)
	}
}

func TestKeyFiles(t *testing.T) {
	want := keys(t)
	host, card := t.TempDir(), t.TempDir()
	for range 2 { // the second time replaces
		if err := want.Save(host); err != nil {
			t.Fatal(err)
		}
	}
	got, err := LoadKeys(host)
	if err != nil || string(got.ClientKey) != string(want.ClientKey) || string(got.SSHHostPublic) != string(want.SSHHostPublic) {
		t.Errorf("load: %v", err)
	}
	entries, err := os.ReadDir(host)
	if err != nil || len(entries) != len(keyFiles) {
		t.Errorf("%d files, %v, want %d", len(entries), err, len(keyFiles))
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600", e.Name(), info.Mode())
		}
	}
	for name, data := range want.CardFiles() {
		if strings.HasPrefix(name, "client") {
			t.Errorf("%s goes to the card: the host's key must not", name)
		}
		if err := os.WriteFile(filepath.Join(card, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if k, err := LoadCardKeys(card); err != nil || len(k.ServerKey) == 0 || len(k.ClientKey) != 0 {
		t.Errorf("card's keys: %v", err)
	}
	if _, err := LoadKeys(card); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing files: %v, want ErrNotExist", err)
	}
}

func TestSSHHostKeyPair(t *testing.T) {
	k := keys(t)
	signer, err := ssh.ParsePrivateKey(k.SSHHostKey)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(ssh.MarshalAuthorizedKey(signer.PublicKey())); got != string(k.SSHHostPublic) {
		t.Errorf("public key %q, want %q", got, k.SSHHostPublic)
	}
}
