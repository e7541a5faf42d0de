package release

import (
	"crypto/x509"
	"path/filepath"
	"time"
)

// Status describes the keys of a folder, for people and as JSON.
type Status struct {
	Dir          string        `json:"dir"`
	Certificates []Certificate `json:"certificates"`
	// Authority is whether ca.pem is in the folder.
	Authority bool `json:"authority_key_here"`
}

// Certificate is one certificate of a folder.
type Certificate struct {
	Role        string    `json:"role"` // release, chain or keyring
	File        string    `json:"file"`
	Name        string    `json:"name"`
	Issuer      string    `json:"issuer"`
	From        time.Time `json:"valid_from"`
	Until       time.Time `json:"valid_until"`
	Fingerprint string    `json:"sha256"` // of the certificate
}

// Soon is how long before its end a certificate is worth a warning.
const Soon = 60 * 24 * time.Hour

// State says in a word or two whether a certificate is valid.
func (c Certificate) State(now time.Time) string {
	switch {
	case now.After(c.Until):
		return "expired"
	case now.Before(c.From):
		return "not yet valid"
	case now.Add(Soon).After(c.Until):
		return "expires soon"
	}
	return "valid"
}

// Status describes the keys.
func (k *Keys) Status() Status {
	_, err := readFile(filepath.Join(k.dir, caName))
	s := Status{Dir: k.dir, Authority: err == nil}
	add := func(role, file string, certs ...*x509.Certificate) {
		for _, c := range certs {
			s.Certificates = append(s.Certificates, Certificate{
				Role: role, File: file, Name: c.Subject.CommonName, Issuer: c.Issuer.CommonName,
				From: c.NotBefore, Until: c.NotAfter, Fingerprint: fingerprint(c),
			})
		}
	}
	add("release", k.Release(), k.release.cert)
	add("chain", k.Chain(), k.chain...)
	add("keyring", k.Keyring(), k.ring...)
	return s
}
