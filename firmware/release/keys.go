package release

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/toe-project/toe/internal/atomicfile"
)

// ErrNoKeys means that the folder has no keys. Init makes them.
var ErrNoKeys = errors.New("no release keys")

// ErrNoAuthority means that ca.pem is not in the folder. Give its path.
var ErrNoAuthority = errors.New("the authority's key is not here")

// ErrExpired means that the release certificate is not valid at this time. Rotate issues another.
var ErrExpired = errors.New("the release certificate has expired")

// Keys are the keys in one folder.
type Keys struct {
	dir     string
	release *pair
	chain   []*x509.Certificate
	ring    []*x509.Certificate
}

// Options say what new certificates contain.
type Options struct {
	Name      string        // of the releasing organisation, in the names of certificates
	Authority time.Duration // validity of an authority
	Release   time.Duration // validity of a release certificate, at most until the authority's end
	CA        string        // path of ca.pem; default the one of the folder
	Now       time.Time     // default the clock
}

// Default validities.
const (
	Year             = 365 * 24 * time.Hour
	DefaultAuthority = 20 * Year
	DefaultRelease   = 2 * Year
)

func (o Options) normal(dir string) (Options, error) {
	if o.Name == "" {
		o.Name = "toe"
	}
	if o.Authority == 0 {
		o.Authority = DefaultAuthority
	}
	if o.Release == 0 {
		o.Release = DefaultRelease
	}
	if o.CA == "" {
		o.CA = filepath.Join(dir, caName)
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	if len(o.Name) > 40 || !printable(o.Name) {
		return o, fmt.Errorf("name %.60q: want 1 to 40 printable ASCII characters", o.Name)
	}
	if o.Release < 0 || o.Authority < 0 {
		return o, errors.New("validity: want a positive number of days")
	}
	return o, nil
}

const releaseSuffix = " firmware release"

func printable(s string) bool {
	return !slices.ContainsFunc([]byte(s), func(b byte) bool { return b < ' ' || b > '~' })
}

const (
	caName      = "ca.pem"
	releaseName = "release.pem"
	chainName   = "chain.pem"
	keyringName = "keyring.pem"
)

// Init makes an authority and a release certificate in dir, mode 0700. It refuses a folder that has
// keys: cards trust them.
func Init(dir string, o Options) (*Keys, error) {
	o, err := o.normal(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of release keys: %w", err)
	}
	for _, name := range []string{caName, releaseName, keyringName} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s exists; want a folder without keys. "+
				"`toe firmware keys rotate` replaces the release key", filepath.Join(dir, name))
		}
	}
	ca, err := newAuthority(o.Name, o.Now, o.Now.Add(o.Authority))
	if err != nil {
		return nil, err
	}
	release, err := ca.newRelease(o.Name+releaseSuffix, o.Now, o.Now.Add(o.Release))
	if err != nil {
		return nil, err
	}
	// The release certificate comes last: a folder without one has no keys.
	err = inOrder(
		func() error { return writePair(filepath.Join(dir, caName), ca) },
		func() error { return writeCerts(filepath.Join(dir, keyringName), ca.cert) },
		func() error { return writePair(filepath.Join(dir, releaseName), release) },
	)
	if err != nil {
		return nil, err
	}
	return Open(dir)
}

// Open reads the keys of a folder. Errors: ErrNoKeys; a file that others may read, or that does not
// fit the others.
func Open(dir string) (*Keys, error) {
	path := filepath.Join(dir, releaseName)
	release, err := readPair(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s; fix: `toe firmware keys init`", ErrNoKeys, dir)
	}
	if err != nil {
		return nil, err
	}
	k := &Keys{dir: dir, release: release}
	if k.ring, err = readCerts(k.Keyring()); err != nil {
		return nil, err
	}
	if k.chain, err = readCerts(k.Chain()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return k, k.verify(release.cert.NotAfter.Add(-time.Second))
}

// verify checks that the release certificate leads to the keyring, at a time.
func (k *Keys) verify(at time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range k.ring {
		roots.AddCert(c)
	}
	for _, c := range k.chain {
		between.AddCert(c)
	}
	_, err := k.release.cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	})
	if err != nil {
		return fmt.Errorf("%s does not lead to a certificate of %s: %w", k.Release(), k.Keyring(), err)
	}
	return nil
}

// Usable returns ErrExpired if cards would reject at that time what the keys sign.
func (k *Keys) Usable(at time.Time) error {
	if c := k.release.cert; at.After(c.NotAfter) || at.Before(c.NotBefore) {
		return fmt.Errorf("%w: %s is valid from %s to %s; fix: `toe firmware keys rotate`",
			ErrExpired, k.Release(), c.NotBefore.Format(time.DateOnly), c.NotAfter.Format(time.DateOnly))
	}
	return k.verify(at)
}

// Paths of the files.
func (k *Keys) Release() string { return filepath.Join(k.dir, releaseName) }
func (k *Keys) Chain() string   { return filepath.Join(k.dir, chainName) }
func (k *Keys) Keyring() string { return filepath.Join(k.dir, keyringName) }

// HasChain reports whether bundles need the certificates of Chain.
func (k *Keys) HasChain() bool { return len(k.chain) > 0 }

func writePair(path string, p *pair) error {
	text, err := p.encode()
	if err != nil {
		return err
	}
	return atomicfile.Write(path, text, 0o600)
}

func writeCerts(path string, certs ...*x509.Certificate) error {
	return atomicfile.Write(path, encodeCerts(certs...), 0o644)
}

// maxFile bounds a file of keys, in bytes.
const maxFile = 1 << 20

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s: want a regular file of at most %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}

func readPair(path string) (*pair, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s: others can read this private key; fix: `chmod 0600 %s`", path, path)
	}
	p, err := parsePair(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func readCerts(path string) ([]*x509.Certificate, error) {
	text, err := readFile(path)
	if err != nil {
		return nil, err
	}
	certs, err := parseCerts(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return certs, nil
}

// KeyringIn returns the path of the keyring in a folder of keys.
func KeyringIn(dir string) string { return filepath.Join(dir, keyringName) }

// ReadKeyring returns the certificates in a file, in PEM and without what else is in it.
func ReadKeyring(path string) ([]byte, error) {
	certs, err := readCerts(path)
	if err != nil {
		return nil, err
	}
	return encodeCerts(certs...), nil
}
