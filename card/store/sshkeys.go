package store

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/toe-project/toe/card/spec"
	"github.com/toe-project/toe/internal/atomicfile"
)

// userKeys are the usable public keys in home/.ssh. A key that cannot be read is
// left out.
func userKeys(home string) []string {
	files, _ := filepath.Glob(filepath.Join(home, ".ssh", "*.pub"))
	var keys []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil || len(data) > 64<<10 {
			continue
		}
		if line := strings.TrimSpace(string(data)); line != "" && spec.CheckAuthorizedKey(line) == nil {
			keys = append(keys, line)
		}
	}
	return keys
}

// loginKey is the key that `toe ssh` uses, made with the card.
const loginKey = "ssh_login_ed25519_key"

// makeLoginKey puts a new key pair into dir.
func makeLoginKey(dir string) error {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(priv, "toe ssh")
	if err != nil {
		return err
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, loginKey), pem.EncodeToMemory(block), 0o600); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, loginKey+".pub"), ssh.MarshalAuthorizedKey(sshPub), 0o600)
}

// LoginKey is the private key of `toe ssh`.
func (c *Card) LoginKey() (ssh.Signer, error) {
	data, err := os.ReadFile(filepath.Join(c.Paths.Keys(), loginKey))
	if err != nil {
		return nil, err
	}
	return ssh.ParsePrivateKey(data)
}

// HostKey is the public key that the card proves itself with.
func (c *Card) HostKey() (ssh.PublicKey, error) {
	data, err := os.ReadFile(filepath.Join(c.Paths.Keys(), "ssh_host_ed25519_key.pub"))
	if err != nil {
		return nil, err
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey(data)
	return key, err
}

func (c *Card) LoginPublic() (string, error) {
	data, err := os.ReadFile(filepath.Join(c.Paths.Keys(), loginKey+".pub"))
	return strings.TrimSpace(string(data)), err
}

// Home is the home folder of the calling user; behind sudo, that of the user who called it.
func Home() string {
	if name := os.Getenv("SUDO_USER"); name != "" && os.Geteuid() == 0 {
		if u, err := user.Lookup(name); err == nil {
			return u.HomeDir
		}
	}
	home, _ := os.UserHomeDir()
	return home
}
