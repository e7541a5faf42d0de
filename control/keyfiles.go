package control

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/toe-project/toe/internal/atomicfile"
)

// keyFile is one file of a card's keys.
type keyFile struct {
	name   string
	onCard bool // goes to KeysDir on the card
	onHost bool // the host's programs need it to call the card
	field  func(*Keys) *[]byte
}

var keyFiles = []keyFile{
	{"ca.pem", true, true, func(k *Keys) *[]byte { return &k.CA }},
	{"server.pem", true, false, func(k *Keys) *[]byte { return &k.ServerCert }},
	{"server.key", true, false, func(k *Keys) *[]byte { return &k.ServerKey }},
	{"client.pem", false, true, func(k *Keys) *[]byte { return &k.ClientCert }},
	{"client.key", false, true, func(k *Keys) *[]byte { return &k.ClientKey }},
	{"ssh_host_ed25519_key", true, false, func(k *Keys) *[]byte { return &k.SSHHostKey }},
	{"ssh_host_ed25519_key.pub", false, true, func(k *Keys) *[]byte { return &k.SSHHostPublic }},
}

// CardFiles are the files of KeysDir on the card, by name.
func (k Keys) CardFiles() map[string][]byte {
	out := map[string][]byte{}
	for _, f := range keyFiles {
		if f.onCard {
			out[f.name] = *f.field(&k)
		}
	}
	return out
}

// Save writes all keys into an existing directory of the host, mode 0600. It
// replaces a file whole or not at all.
func (k Keys) Save(dir string) error {
	for _, f := range keyFiles {
		if err := atomicfile.Write(filepath.Join(dir, f.name), *f.field(&k), 0o600); err != nil {
			return fmt.Errorf("keys: %w", err)
		}
	}
	return nil
}

// LoadKeys reads what Save wrote. Errors: fs.ErrNotExist for a missing file.
func LoadKeys(dir string) (Keys, error) {
	return loadKeys(os.DirFS(dir), dir, func(keyFile) bool { return true })
}

// LoadCardKeys reads the card's part, on the card.
func LoadCardKeys(dir string) (Keys, error) {
	return loadKeys(os.DirFS(dir), dir, func(f keyFile) bool { return f.onCard })
}

// LoadClientKeys reads what a program of the host needs to call the card.
func LoadClientKeys(dir string) (Keys, error) {
	return loadKeys(os.DirFS(dir), dir, func(f keyFile) bool { return f.onHost })
}

func loadKeys(fsys fs.FS, dir string, want func(keyFile) bool) (Keys, error) {
	var k Keys
	for _, f := range keyFiles {
		if !want(f) {
			continue
		}
		data, err := fs.ReadFile(fsys, f.name)
		if err != nil {
			return Keys{}, fmt.Errorf("keys in %s: %w", dir, err)
		}
		*f.field(&k) = data
	}
	return k, nil
}
