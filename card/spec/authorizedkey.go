package spec

import (
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

func CheckAuthorizedKey(line string) error {
	if strings.ContainsAny(line, "\n\r") {
		return fmt.Errorf("one key a list entry")
	}
	_, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil || len(rest) > 0:
		return fmt.Errorf("not a public key as in authorized_keys(5), such as ssh-ed25519 AAAA… you@there")
	case len(options) > 0:
		return fmt.Errorf("options (%s) are not taken; only the key itself", strings.Join(options, ","))
	}
	return nil
}
