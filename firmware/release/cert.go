package release

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// Types of PEM blocks (RFC 7468, sections 5 and 10).
const (
	certBlock = "CERTIFICATE"
	keyBlock  = "PRIVATE KEY"
)

// skew is how far the clock of a card may be behind that of the signing host.
const skew = time.Hour

// pair is a certificate and its private key.
type pair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// template is a certificate that is valid from now on.
func template(name string, now, until time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-skew).UTC().Truncate(time.Second),
		NotAfter:              until.UTC().Truncate(time.Second),
		BasicConstraintsValid: true,
	}, nil
}

// authorityTemplate may issue release certificates, and authorities that may.
func authorityTemplate(name string, now, until time.Time) (*x509.Certificate, error) {
	t, err := template(name, now, until)
	if err != nil {
		return nil, err
	}
	t.IsCA = true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return t, nil
}

// newAuthority makes an authority with a name of its own: OpenSSL takes a certificate whose issuer
// has the same name for self-signed, and would reject those that vouch for the next authority.
func newAuthority(organisation string, now, until time.Time) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(public)
	t, err := authorityTemplate(organisation+" firmware authority "+hex.EncodeToString(sum[:4]), now, until)
	if err != nil {
		return nil, err
	}
	return sign(t, key, &pair{t, key})
}

// newRelease issues a certificate with a new key. Its usages are those that RAUC's purpose codesign
// and OpenSSL's require: digitalSignature, critical, and codeSigning alone.
func (ca *pair) newRelease(name string, now, until time.Time) (*pair, error) {
	if ca.cert.NotAfter.Before(until) {
		until = ca.cert.NotAfter
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t, err := template(name, now, until)
	if err != nil {
		return nil, err
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	return sign(t, key, ca)
}

// cross issues a certificate for another authority's key. Cards that trust only ca accept with it
// what the other authority has issued.
func (ca *pair) cross(next *pair, now time.Time) (*x509.Certificate, error) {
	until := next.cert.NotAfter
	if ca.cert.NotAfter.Before(until) {
		until = ca.cert.NotAfter
	}
	t, err := authorityTemplate(next.cert.Subject.CommonName, now, until)
	if err != nil {
		return nil, err
	}
	p, err := sign(t, next.key, ca)
	if err != nil {
		return nil, err
	}
	return p.cert, nil
}

func sign(t *x509.Certificate, key *ecdsa.PrivateKey, by *pair) (*pair, error) {
	raw, err := x509.CreateCertificate(rand.Reader, t, by.cert, &key.PublicKey, by.key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(raw)
	return &pair{cert, key}, err
}

// encode returns certificate and key as PEM.
func (p *pair) encode() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), encodeCerts(p.cert)...), nil
}

func encodeCerts(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: c.Raw})...)
	}
	return out
}

// parsePair reads the first key and the first certificate of a PEM file.
func parsePair(text []byte) (*pair, error) {
	p := new(pair)
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == keyBlock && p.key == nil:
			key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, err
			}
			ec, ok := key.(*ecdsa.PrivateKey)
			if !ok {
				return nil, fmt.Errorf("key of type %T: want ECDSA", key)
			}
			p.key = ec
		case block.Type == certBlock && p.cert == nil:
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			p.cert = cert
		}
	}
	switch {
	case p.key == nil:
		return nil, errors.New("no PRIVATE KEY block in it")
	case p.cert == nil:
		return nil, errors.New("no CERTIFICATE block in it")
	case !p.key.PublicKey.Equal(p.cert.PublicKey):
		return nil, errors.New("key and certificate do not belong together")
	}
	return p, nil
}

// parseCerts reads the certificates of a PEM file.
func parseCerts(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certBlock {
			return nil, fmt.Errorf("%s block: want only CERTIFICATE", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return nil, errors.New("no CERTIFICATE block in it")
	}
	return all, nil
}

// fingerprint is the SHA-256 of a certificate, in hex.
func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
