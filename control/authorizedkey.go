package control

import (
	"bytes"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// ParseAuthorizedKey reads one line of an authorized_keys file. It refuses
// options: the card does not honour them, and all of them restrict.
func ParseAuthorizedKey(line string) (ssh.PublicKey, error) {
	key, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%.40q: want a line such as \"ssh-ed25519 AAAA… name\": %w", line, err)
	case len(options) > 0:
		return nil, fmt.Errorf("options %q are not supported; want a key without options", options)
	case len(bytes.TrimSpace(rest)) > 0 || strings.ContainsAny(strings.TrimSpace(line), "\n\r"):
		return nil, fmt.Errorf("%.40q: want one key a line", line)
	}
	return key, nil
}
