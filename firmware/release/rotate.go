package release

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/toe-project/toe/internal/atomicfile"
)

// Rotate replaces the release key and its certificate. Cards need no new keyring.
func (k *Keys) Rotate(o Options) error {
	o, err := o.normal(k.dir)
	if err != nil {
		return err
	}
	ca, err := k.authority(o)
	if err != nil {
		return err
	}
	release, err := ca.newRelease(k.release.cert.Subject.CommonName, o.Now, o.Now.Add(o.Release))
	if err != nil {
		return err
	}
	return k.setRelease(release)
}

// RotateAuthority makes another authority and a release certificate of it. The keyring gets both
// authorities. The chain gets a certificate of the new one that the old one issued: cards with the
// old keyring accept new bundles, until the old authority expires. At each step in between the
// folder has keys that sign.
func (k *Keys) RotateAuthority(o Options) error {
	o, err := o.normal(k.dir)
	if err != nil {
		return err
	}
	old, err := k.authority(o)
	if err != nil {
		return err
	}
	organisation := strings.TrimSuffix(k.release.cert.Subject.CommonName, releaseSuffix)
	next, err := newAuthority(organisation, o.Now, o.Now.Add(o.Authority))
	if err != nil {
		return err
	}
	cross, err := old.cross(next, o.Now)
	if err != nil {
		return err
	}
	release, err := next.newRelease(k.release.cert.Subject.CommonName, o.Now, o.Now.Add(o.Release))
	if err != nil {
		return err
	}
	return inOrder(
		func() error { return k.setRing(append([]*x509.Certificate{next.cert}, k.ring...)) },
		func() error { return k.setChain(append(slices.Clone(k.chain), cross)) },
		func() error { return writePair(o.CA, next) },
		func() error { return k.setRelease(release) },
	)
}

// inOrder runs steps until one fails.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// DropAuthorities takes all authorities but the one of the release certificate out of the keyring,
// and the chain to them. Images with this keyring reject what the others signed. Cards without such
// an image reject new bundles from now on.
func (k *Keys) DropAuthorities() error {
	var keep []*x509.Certificate
	for _, c := range k.ring {
		if k.release.cert.CheckSignatureFrom(c) == nil {
			keep = append(keep, c)
		}
	}
	if len(keep) == 0 {
		return fmt.Errorf("%s: no certificate in it has issued %s", k.Keyring(), k.Release())
	}
	return inOrder(
		func() error { return k.setChain(nil) },
		func() error { return k.setRing(keep) },
	)
}

// authority reads ca.pem, which may be on another medium, and checks that cards trust it.
func (k *Keys) authority(o Options) (*pair, error) {
	ca, err := readPair(o.CA)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: no file %s; fix: --ca PATH of ca.pem", ErrNoAuthority, o.CA)
	}
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(k.ring, ca.cert.Equal) {
		return nil, fmt.Errorf("%s is not an authority of %s", o.CA, k.Keyring())
	}
	if o.Now.After(ca.cert.NotAfter) {
		return nil, fmt.Errorf("the authority %s has expired on %s; cards accept nothing of it",
			o.CA, ca.cert.NotAfter.Format(time.DateOnly))
	}
	return ca, nil
}

func (k *Keys) setRing(certs []*x509.Certificate) error {
	if err := writeCerts(k.Keyring(), certs...); err != nil {
		return err
	}
	k.ring = certs
	return nil
}

func (k *Keys) setChain(certs []*x509.Certificate) error {
	write := func() error { return writeCerts(k.Chain(), certs...) }
	if len(certs) == 0 {
		write = func() error { return atomicfile.Remove(k.Chain()) }
	}
	if err := write(); err != nil {
		return err
	}
	k.chain = certs
	return nil
}

func (k *Keys) setRelease(p *pair) error {
	if err := writePair(k.Release(), p); err != nil {
		return err
	}
	k.release = p
	return nil
}
