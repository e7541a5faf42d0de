package control

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"golang.org/x/crypto/ssh"
)

// Keys authenticate one card and its host to each other. Every card has its own
// authority, whose private key is discarded as soon as it has signed the two
// certificates: there cannot be a third. All fields are PEM, except
// SSHHostPublic, which is the end of a line of known_hosts, after the address.
type Keys struct {
	CA            []byte
	ServerCert    []byte
	ServerKey     []byte
	ClientCert    []byte
	ClientKey     []byte
	SSHHostKey    []byte
	SSHHostPublic []byte
}

// GenerateKeys makes the keys of one card.
func GenerateKeys() (Keys, error) {
	var k Keys
	ca, err := newAuthority()
	if err != nil {
		return k, fmt.Errorf("keys: authority: %w", err)
	}
	k.CA = certPEM(ca.cert.Raw)
	if k.ServerCert, k.ServerKey, err = ca.issue(ServerName, x509.ExtKeyUsageServerAuth); err != nil {
		return k, fmt.Errorf("keys: server: %w", err)
	}
	if k.ClientCert, k.ClientKey, err = ca.issue("host.toe", x509.ExtKeyUsageClientAuth); err != nil {
		return k, fmt.Errorf("keys: client: %w", err)
	}
	if k.SSHHostKey, k.SSHHostPublic, err = newSSHKey(); err != nil {
		return k, fmt.Errorf("keys: ssh host key: %w", err)
	}
	return k, nil
}

type authority struct {
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

// template gives certificates that never expire (RFC 5280, section 4.1.2.5)
// and are valid since the epoch: a card may have no clock when it
// authenticates. The keys are removed with the card.
func template(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Unix(0, 0).UTC(),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}, nil
}

func newAuthority() (*authority, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	t, err := template("card authority")
	if err != nil {
		return nil, err
	}
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign
	raw, err := x509.CreateCertificate(rand.Reader, t, t, pub, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	return &authority{cert, key}, err
}

func (a *authority) issue(name string, usage x509.ExtKeyUsage) (cert, key []byte, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t, err := template(name)
	if err != nil {
		return nil, nil, err
	}
	t.DNSNames = []string{name}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	raw, err := x509.CreateCertificate(rand.Reader, t, a.cert, pub, a.key)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, nil, err
	}
	return certPEM(raw), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func certPEM(raw []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

func newSSHKey() (private, public []byte, err error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		return nil, nil, err
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(block), ssh.MarshalAuthorizedKey(sshPub), nil
}
