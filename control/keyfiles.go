package control

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// keyFile is one file of a card's keys.
type keyFile struct {
	name   string
	onCard bool // goes to KeysDir on the card
	onHost bool // the host itself needs it to talk to the card
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

// CardFiles are the files that belong in KeysDir on the card, by name.
func (k Keys) CardFiles() map[string][]byte {
	out := map[string][]byte{}
	for _, f := range keyFiles {
		if f.onCard {
			out[f.name] = *f.field(&k)
		}
	}
	return out
}

// Save writes all keys into a directory of the host, which exists, mode
// 0600. An existing file is replaced whole or not at all.
func (k Keys) Save(dir string) error {
	for _, f := range keyFiles {
		if err := replaceFile(filepath.Join(dir, f.name), *f.field(&k)); err != nil {
			return fmt.Errorf("keys: %w", err)
		}
	}
	return syncDir(dir)
}

// LoadKeys reads what Save wrote. A missing file is an error that
// errors.Is(err, fs.ErrNotExist) knows: the card has to be made anew.
func LoadKeys(dir string) (Keys, error) {
	return loadKeys(os.DirFS(dir), dir, func(keyFile) bool { return true })
}

// LoadCardKeys reads the card's part, on the card.
func LoadCardKeys(dir string) (Keys, error) {
	return loadKeys(os.DirFS(dir), dir, func(f keyFile) bool { return f.onCard })
}

// LoadClientKeys reads only what a program of the host needs to call the card.
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

// replaceFile is write, fsync, rename: a reader sees the old file or the new.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	return d.Sync()
}
